"""`python -m adapters.local`: serve the local models."""

from __future__ import annotations

from dataclasses import replace

import click

from adapters.local.server import run
from adapters.local.text import TextModel, TextSettings

_POSITIVE = click.IntRange(min=1)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8090, show_default=True, help="Port; 0 takes a free one.")
@click.option("--fd", type=int, help="Inherited listening socket, instead of --host and --port.")
@click.option(
    "--slots", type=_POSITIVE, default=2, show_default=True, help="Text generations at a time."
)
@click.option("--threads", type=_POSITIVE, help="Threads of a model.  [default: cores - 1]")
@click.option(
    "--load-delay-seconds",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Wait before loading, to pretend a cold start.",
)
def main(
    host: str, port: int, fd: int | None, slots: int, threads: int | None, load_delay_seconds: float
) -> None:
    """Serve the native Hugging Face model API over small models on this machine."""
    settings = TextSettings(slots=slots, load_delay_seconds=load_delay_seconds)
    if threads is not None:
        settings = replace(settings, threads=threads)
    run([TextModel(settings)], host=host, port=port, fd=fd)


if __name__ == "__main__":
    main()
