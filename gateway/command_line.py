"""What the commands share: where the book is, how they refuse, how they print."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click
import msgspec

from gateway.fields import InvalidField

if TYPE_CHECKING:
    from gateway.administration import Administration
    from gateway.book import Book
    from gateway.config import Settings

P = ParamSpec("P")
T = TypeVar("T")

_DEFAULT_DATA_DIR = Path("~/.local/share/dragoman")
_OPTIONS = {"expires_at": "'--expires'", "grace_seconds": "'--grace'", "id": "'ID'"}

as_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON and nothing else."
)


@dataclass(frozen=True, slots=True)
class Desk:
    """Where an operator works: the open book, and the models of the configuration."""

    settings: Settings
    data_dir: Path
    book: Book
    administration: Administration


def common(command: Callable[P, int | None]) -> Callable[P, None]:
    """Add the options of every command, and turn what went wrong into a line and an exit code.

    2 for what cannot be done as asked, 1 for a key or a team that is not there (or is already).
    """

    @click.option(
        "--config",
        envvar="DRAGOMAN_CONFIG",
        type=click.Path(dir_okay=False, path_type=Path),
        help="TOML file.  [env: DRAGOMAN_CONFIG; default: everything embedded]",
    )
    @click.option(
        "--data-dir",
        envvar="DRAGOMAN_DATA_DIR",
        type=click.Path(file_okay=False, path_type=Path),
        default=_DEFAULT_DATA_DIR,
        callback=lambda _context, _option, path: path.expanduser().absolute(),
        help=f"Keys, usage and state.  [env: DRAGOMAN_DATA_DIR; default: {_DEFAULT_DATA_DIR}]",
    )
    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except BrokenPipeError:
            raise  # whoever reads has seen enough: click ends in silence
        except InvalidField as exc:
            raise click.BadParameter(exc.problem, param_hint=_option(exc.field)) from None
        except _problems() as exc:
            for line in str(exc).splitlines():
                click.echo(f"dragoman: {line}", err=True)
            code = 1 if isinstance(exc, _absences()) else 2
        sys.exit(code or 0)

    return run


def at_desk(config: Path | None, data_dir: Path, work: Callable[[Desk], Awaitable[T]]) -> T:
    """Open the book of the configuration and return what `work` makes of it."""
    return asyncio.run(_at_desk(config, data_dir, work))


async def _at_desk(config: Path | None, data_dir: Path, work: Callable[[Desk], Awaitable[T]]) -> T:
    from gateway.administration import Administration
    from gateway.book import Book
    from gateway.config_file import load
    from gateway.fields import model_names
    from gateway.keys import digest, load_pepper
    from gateway.local_models import with_local_upstream

    settings = with_local_upstream(load(config), "http://127.0.0.1")
    book = await Book.open(settings.store.book or data_dir)
    try:
        administration = Administration(
            book,
            # Read when a key is made, and only then: revoking must not fail for want of it.
            lambda text: digest(text, load_pepper(data_dir)),
            models=model_names(settings.models),
            with_hub=bool(settings.hub.enabled),
            actor=f"cli:{_login_name()}",
        )
        return await work(Desk(settings, data_dir, book, administration))
    finally:
        await book.aclose()


def print_json(value: Any) -> None:
    """Print one JSON value, indented."""
    click.echo(msgspec.json.format(msgspec.json.encode(value)))


def print_fields(fields: Mapping[str, Any]) -> None:
    """Print a line for each field."""
    width = max(map(len, fields))
    for name, value in fields.items():
        click.echo(f"{name:{width}}  {_cell(value)}")


async def print_json_list(pages: AsyncIterator[Sequence[Any]]) -> None:
    """Print one JSON array, an element a line, as its pages come."""
    before = "[\n"
    async for page in pages:
        for value in page:
            click.echo(before + msgspec.json.encode(value).decode(), nl=False)
            before = ",\n"
    click.echo("[]" if before == "[\n" else "\n]")


async def print_table(
    heads: Sequence[str],
    pages: AsyncIterator[Sequence[Sequence[Any]]],
    *,
    numbers: Iterable[str] = (),
) -> None:
    """Print rows below `heads`, as their pages come; the columns in `numbers` to the right."""
    aligns = [">" if head in numbers else "<" for head in heads]
    rows = [[head.upper().replace("_", " ") for head in heads]]
    widths = [0] * len(heads)
    async for page in pages:
        rows += [[_cell(value) for value in row] for row in page]
        widths = _print_rows(rows, widths, aligns)
        rows = []
    _print_rows(rows, widths, aligns)


def _print_rows(rows: Sequence[Sequence[str]], widths: list[int], aligns: list[str]) -> list[int]:
    """Print `rows` in columns at least `widths` wide, and return how wide they were."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in widths)
    widths = [
        max([width, *map(len, column)]) for width, column in zip(widths, columns, strict=True)
    ]
    for row in rows:
        cells = (
            f"{cell:{align}{width}}" for cell, align, width in zip(row, aligns, widths, strict=True)
        )
        click.echo("  ".join(cells).rstrip())
    return widths


def _cell(value: Any) -> str:
    match value:
        case None | "":
            return "-"
        case str():
            return value
        case Mapping():
            return ", ".join(f"{name}={_inner(one)}" for name, one in value.items()) or "-"
        case list() | tuple():
            return ",".join(map(_cell, value)) or "none"
        case _:
            return str(value)


def _inner(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _option(field: str) -> str:
    """Return the option that a field is given by."""
    name = field.removeprefix("limits.").replace("_", "-")
    return _OPTIONS.get(field, f"'--{name}'")


def _login_name() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no entry
        return str(os.getuid())


def _problems() -> tuple[type[Exception], ...]:
    """Return what a command may raise. Imported when something was raised: help need not wait."""
    from gateway.book import BookError
    from gateway.config import ConfigError
    from gateway.embedded import EmbeddedError
    from gateway.errors import GatewayError
    from gateway.keys import BadPepper
    from gateway.store import StoreError

    return ConfigError, EmbeddedError, BookError, BadPepper, StoreError, GatewayError, OSError


def _absences() -> tuple[type[Exception], ...]:
    from gateway.book import TeamExists, UnknownKey, UnknownTeam

    return TeamExists, UnknownKey, UnknownTeam
