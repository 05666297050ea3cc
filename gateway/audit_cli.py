"""`dragoman audit`: who changed what."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click
import msgspec

from adapters.base import Json
from gateway.command_line import (
    Desk,
    as_json_option,
    at_desk,
    common,
    print_json_list,
    print_table,
)
from gateway.command_options import NAME

_HEADS = ("id", "at", "actor", "action", "subject", "change")
_LONGEST_CHANGE = 100
_OF_ITSELF = ("id", "created_at")  # what a new key or team has without anybody's choice


@click.command()
@click.option("--subject", type=NAME, help="Changes of the key with this id, or of this team.")
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many."
)
@click.option("--after", type=click.IntRange(1), help="Those before the change with this id.")
@as_json_option
@common
def audit(
    config: Path | None,
    data_dir: Path,
    subject: str | None,
    limit: int,
    after: int | None,
    as_json: bool,
) -> None:
    """List who made and changed keys and teams, the newest change first."""

    async def changes(desk: Desk) -> AsyncIterator[list[Json]]:
        from gateway.administration import describe_change

        found = await desk.book.audit(subject=subject, after=after, limit=limit)
        yield [describe_change(change) for change in found]

    async def work(desk: Desk) -> None:
        if as_json:
            await print_json_list(changes(desk))
        else:
            await print_table(_HEADS, _rows(changes(desk)), numbers=("id",))

    at_desk(config, data_dir, work)


async def _rows(pages: AsyncIterator[list[Json]]) -> AsyncIterator[list[list[Any]]]:
    async for page in pages:
        yield [[*(change[name] for name in _HEADS[:-1]), _difference(change)] for change in page]


def _difference(change: Json) -> str:
    """Return what is other than before, in a line."""
    before, after = change["before"] or {}, change["after"] or {}
    changed = {name: value for name, value in after.items() if before.get(name) != value}
    text = ", ".join(
        f"{name}={msgspec.json.encode(value).decode()}"
        for name, value in changed.items()
        if before or (value and name not in _OF_ITSELF)
    )
    return text if len(text) <= _LONGEST_CHANGE else text[:_LONGEST_CHANGE] + "…"
