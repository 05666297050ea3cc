"""`dragoman keys`: API keys on the command line."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click

from adapters.base import Json
from gateway.command_line import (
    Desk,
    as_json_option,
    at_desk,
    common,
    print_fields,
    print_json,
    print_json_list,
    print_table,
)
from gateway.command_options import (
    DURATION,
    NAME,
    changes_given,
    fields_given,
    key_options,
)

_PAGE = 1000

_key_argument = click.argument("key_id", metavar="ID", type=NAME)


@click.group()
def keys() -> None:
    """Create, change, rotate and revoke API keys. Works while the gateway runs."""


@keys.command()
@click.option("--name", required=True, help="Whose key it is.")
@click.option("--team", help="Team that the key belongs to for good; begun if it is new.")
@key_options
@as_json_option
@common
def create(config: Path | None, data_dir: Path, as_json: bool, **options: Any) -> None:
    """Create a key and print it, once.

    Without limits it may use whatever its team may.
    """
    given = fields_given(options)

    async def work(desk: Desk) -> tuple[Json, bool]:
        is_new = "team" in given and not await _is_team(desk, given["team"])
        return await desk.administration.create_key(given, make_team=True), is_new

    key, has_new_team = at_desk(config, data_dir, work)
    if has_new_team:
        team = key["team"]
        note = f"The team {team!r} is new and has no limits; see 'dragoman teams update --help'."
        click.echo(note, err=True)
    if as_json:
        print_json(key)
    else:
        click.echo(f"{key['key']}\n\nThis is key {key['id']} of {key['name']!r}. It is shown once.")


@keys.command("list")
@click.option("--team", type=NAME, help="Keys of this team only.")
@as_json_option
@common
def list_(config: Path | None, data_dir: Path, team: str | None, as_json: bool) -> None:
    """List keys, the oldest first."""

    async def work(desk: Desk) -> None:
        pages = _pages(desk, team)
        if as_json:
            await print_json_list(pages)
        else:
            await print_table(("id", "name", "team", "models", "state", "created"), _rows(pages))

    at_desk(config, data_dir, work)


@keys.command()
@_key_argument
@as_json_option
@common
def show(config: Path | None, data_dir: Path, key_id: str, as_json: bool) -> None:
    """Show a key: its limits, models, state; not its text, which nobody has."""

    async def work(desk: Desk) -> Json:
        return desk.administration.describe_key(await desk.book.show_key(key_id))

    _print_key(at_desk(config, data_dir, work), as_json=as_json)


@keys.command()
@_key_argument
@click.option("--name", help="Whose key it is.")
@click.option("--team", hidden=True)  # to be refused with the reason
@key_options
@as_json_option
@common
def update(config: Path | None, data_dir: Path, key_id: str, as_json: bool, **options: Any) -> None:
    """Change what is given and leave the rest; in force everywhere within a second.

    A limit is taken off with `none`, as in --rpm none. Metadata is replaced as a whole.
    """
    changes = changes_given(options)
    key = at_desk(config, data_dir, lambda desk: desk.administration.update_key(key_id, changes))
    _print_key(key, as_json=as_json)


@keys.command()
@_key_argument
@click.option(
    "--grace",
    type=DURATION,
    default="24h",
    show_default=True,
    help="For how long the old text is good yet: 0, 90s, 30m, 24h, 7d.",
)
@as_json_option
@common
def rotate(config: Path | None, data_dir: Path, key_id: str, grace: int, as_json: bool) -> None:
    """Give a key a new text and print it, once. Id, limits and use so far stay."""
    key = at_desk(
        config,
        data_dir,
        lambda desk: desk.administration.rotate_key(key_id, grace_seconds=grace),
    )
    if as_json:
        print_json(key)
        return
    until = f"is good until {key['old_key_expires_at']}" if grace else "is refused from now on"
    click.echo(f"{key['key']}\n\nThis is key {key_id} anew. It is shown once. The old one {until}.")


@keys.command()
@_key_argument
@as_json_option
@common
def revoke(config: Path | None, data_dir: Path, key_id: str, as_json: bool) -> None:
    """Refuse a key from now on; on every worker within a second."""
    changed = at_desk(config, data_dir, lambda desk: desk.administration.revoke_key(key_id))
    if as_json:
        print_json({"id": key_id, "revoked": True, "changed": changed})
    else:
        click.echo(f"Key {key_id} {'is' if changed else 'was already'} revoked.")


async def _is_team(desk: Desk, name: str) -> bool:
    return any(team.name == name.strip() for team in await desk.book.list_teams())


async def _pages(desk: Desk, team: str | None) -> AsyncIterator[list[Json]]:
    if team is not None:
        await desk.book.show_team(team)
    after = None
    while page := await desk.book.list_keys(team=team, after=after, limit=_PAGE):
        yield [desk.administration.describe_key(key) for key in page]
        after = page[-1].id


async def _rows(pages: AsyncIterator[list[Json]]) -> AsyncIterator[list[list[Any]]]:
    names = ("id", "name", "team", "models", "state", "created_at")
    async for page in pages:
        yield [
            [("all" if name == "models" and key[name] is None else key[name]) for name in names]
            for key in page
        ]


def _print_key(key: Json, *, as_json: bool) -> None:
    if as_json:
        print_json(key)
    else:
        print_fields({**key, "models": "all" if key["models"] is None else key["models"]})
