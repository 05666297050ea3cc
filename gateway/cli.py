"""The `dragoman` command. What a subcommand needs is imported when it runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from gateway import __version__
from gateway.audit_cli import audit
from gateway.cache_cli import cache
from gateway.command_line import as_json_option, common
from gateway.explain_cli import explain
from gateway.keys_cli import keys
from gateway.teams_cli import teams
from gateway.usage_cli import usage


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dragoman")
def main() -> None:
    """OpenAI's API in front of servers that speak their models' native API."""


@main.command()
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port; 0: any free one.  [default: 8000]"
)
@click.option("--workers", type=click.IntRange(1, 256), help="Worker processes.  [default: 1]")
@common
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
@as_json_option
@common
def check(config: Path | None, data_dir: Path, as_json: bool) -> int:
    """Check the configuration, load the templates and probe the upstreams.

    Prints one line each. Exits 1 if there is a problem.
    """
    from gateway.check import check as run

    return asyncio.run(run(config, as_json=as_json))


main.add_command(keys)
main.add_command(teams)
main.add_command(usage)
main.add_command(audit)
main.add_command(cache)
main.add_command(explain)


@main.command(
    context_settings={"ignore_unknown_options": True}, add_help_option=False, name="local"
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def local(arguments: tuple[str, ...]) -> None:
    """Run the local model server on its own."""
    from adapters.local.__main__ import main as run

    run(list(arguments), prog_name="dragoman local")
