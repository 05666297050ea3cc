"""`dragoman teams`: teams, whose keys share limits, on the command line."""

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
    NAME,
    changes_given,
    fields_given,
    limit_options,
    metadata_option,
)

_name_argument = click.argument("name", metavar="NAME", type=NAME)


@click.group()
def teams() -> None:
    """Create and change teams, whose keys share limits. Works while the gateway runs."""


@teams.command()
@_name_argument
@limit_options
@metadata_option
@as_json_option
@common
def create(config: Path | None, data_dir: Path, as_json: bool, **options: Any) -> None:
    """Begin a team. Its limits hold for all of its keys together, beside each key's own."""
    team = at_desk(
        config, data_dir, lambda desk: desk.administration.create_team(fields_given(options))
    )
    _print_team(team, as_json=as_json)


@teams.command("list")
@as_json_option
@common
def list_(config: Path | None, data_dir: Path, as_json: bool) -> None:
    """List teams by name."""

    async def work(desk: Desk) -> None:
        if as_json:
            await print_json_list(_page(desk))
        else:
            await print_table(("name", "limits", "created"), _rows(_page(desk)))

    at_desk(config, data_dir, work)


@teams.command()
@_name_argument
@as_json_option
@common
def show(config: Path | None, data_dir: Path, name: str, as_json: bool) -> None:
    """Show a team and its limits."""
    from gateway.administration import describe_team

    async def work(desk: Desk) -> Json:
        return describe_team(await desk.book.show_team(name))

    _print_team(at_desk(config, data_dir, work), as_json=as_json)


@teams.command()
@_name_argument
@limit_options
@metadata_option
@as_json_option
@common
def update(config: Path | None, data_dir: Path, name: str, as_json: bool, **options: Any) -> None:
    """Change what is given and leave the rest; in force everywhere within a second.

    A limit is taken off with `none`, as in --rpm none. Metadata is replaced as a whole.
    """
    changes = changes_given(options)
    team = at_desk(config, data_dir, lambda desk: desk.administration.update_team(name, changes))
    _print_team(team, as_json=as_json)


async def _page(desk: Desk) -> AsyncIterator[list[Json]]:
    from gateway.administration import describe_team

    yield [describe_team(team) for team in await desk.book.list_teams()]


async def _rows(pages: AsyncIterator[list[Json]]) -> AsyncIterator[list[list[Any]]]:
    async for page in pages:
        yield [[team["name"], team["limits"], team["created_at"]] for team in page]


def _print_team(team: Json, *, as_json: bool) -> None:
    if as_json:
        print_json(team)
    else:
        print_fields(team)
