"""The `dragoman` command. What a subcommand needs is imported when it runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal, InvalidOperation
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import click

from gateway import __version__
from gateway.book import BookError, UnknownKey
from gateway.config import ConfigError
from gateway.embedded import EmbeddedError
from gateway.keys import BadPepper

P = ParamSpec("P")

_DEFAULT_DATA_DIR = Path("~/.local/share/dragoman")
_PROBLEMS = (ConfigError, EmbeddedError, BookError, BadPepper, OSError)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dragoman")
def main() -> None:
    """OpenAI's API in front of servers that speak their models' native API."""


def _common(command: Callable[P, int | None]) -> Callable[P, None]:
    """Add the options of every command, and turn what went wrong into a line and exit code 2."""

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
        except _PROBLEMS as exc:
            for line in str(exc).splitlines():
                click.echo(f"dragoman: {line}", err=True)
            code = 2
        sys.exit(code or 0)

    return run


@main.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port; 0: any free one.  [default: 8000]"
)
@click.option("--workers", type=click.IntRange(1, 256), help="Worker processes.  [default: 1]")
@_common
def serve(
    config: Path | None, data_dir: Path, host: str | None, port: int | None, workers: int | None
) -> int:
    """Run the gateway.

    With no configuration everything is embedded: stores, book and small local models. The very
    first run prints an API key and the admin key, once. Ctrl-C drains and exits 0.
    """
    from gateway.serve import serve as run

    given: dict[str, str | int | None] = {"host": host, "port": port, "workers": workers}
    overrides = {name: value for name, value in given.items() if value is not None}
    return asyncio.run(run(config, data_dir, overrides=overrides))


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
@_common
def check(config: Path | None, data_dir: Path, as_json: bool) -> int:
    """Check the configuration, load the templates and probe the upstreams.

    Prints one line each. Exits 1 if there is a problem.
    """
    from gateway.check import check as run

    return asyncio.run(run(config, as_json=as_json))


def _money(text: str | None) -> Decimal | None:
    """Return an amount of US dollars, None for none given. Raises BadParameter."""
    if text is None:
        return None
    try:
        amount = Decimal(text)
    except InvalidOperation:
        amount = Decimal("NaN")
    if not amount.is_finite() or amount < 0:
        raise click.BadParameter(f"{text!r} is not an amount of at least 0.")
    return amount


@main.group()
def keys() -> None:
    """Create, list and revoke API keys. Works while the gateway runs."""


@keys.command()
@click.option("--name", required=True, help="Whose key it is.")
@click.option("--team", help="Team that the key belongs to.")
@click.option("--models", help="Comma-separated globs of the models it may use.  [default: all]")
@click.option(
    "--expires",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z"]),
    help="ISO date or time; UTC unless it says otherwise.",
)
@click.option("--rpm", type=click.IntRange(0), help="Requests per minute.")
@click.option("--tpm", type=click.IntRange(0), help="Tokens per minute.")
@click.option("--concurrency", type=click.IntRange(0), help="Requests at a time.")
@click.option("--requests-per-day", type=click.IntRange(0), help="Requests per UTC day.")
@click.option("--tokens-per-day", type=click.IntRange(0), help="Tokens per UTC day.")
@click.option("--images-per-day", type=click.IntRange(0), help="Images per UTC day.")
@click.option(
    "--speech-characters-per-day", type=click.IntRange(0), help="Characters spoken per UTC day."
)
@click.option(
    "--audio-seconds-per-day", type=click.IntRange(0), help="Seconds transcribed per UTC day."
)
@click.option(
    "--usd-per-month",
    metavar="AMOUNT",
    callback=lambda _context, _option, text: _money(text),
    help="US dollars per UTC month.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
@_common
def create(
    config: Path | None,
    data_dir: Path,
    name: str,
    team: str | None,
    models: str | None,
    expires: datetime | None,
    as_json: bool,
    **limits: Any,
) -> None:
    """Create a key and print it, once."""
    from gateway.keys_cli import create_key, options_of

    options = options_of(name=name, team=team, models=models, expires=expires, limits=limits)
    asyncio.run(create_key(config, data_dir, options, as_json=as_json))


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
@_common
def list_(config: Path | None, data_dir: Path, as_json: bool) -> None:
    """List all keys, the oldest first."""
    from gateway.keys_cli import list_keys

    asyncio.run(list_keys(config, data_dir, as_json=as_json))


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
@_common
def revoke(config: Path | None, data_dir: Path, key_id: str, as_json: bool) -> int:
    """Refuse a key from now on; on every worker within a second."""
    from gateway.keys_cli import revoke_key

    try:
        asyncio.run(revoke_key(config, data_dir, key_id, as_json=as_json))
    except UnknownKey:
        click.echo(f"dragoman: no key has the id {key_id!r}; see 'dragoman keys list'", err=True)
        return 1
    return 0


@main.command(
    context_settings={"ignore_unknown_options": True}, add_help_option=False, name="local"
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def local(arguments: tuple[str, ...]) -> None:
    """Run the local model server on its own."""
    from adapters.local.__main__ import main as run

    run(list(arguments), prog_name="dragoman local")
