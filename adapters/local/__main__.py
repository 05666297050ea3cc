"""`python -m adapters.local`: serve the local models."""

from __future__ import annotations

import os
from dataclasses import replace

import click

from adapters.local.embedding import EmbeddingModel, EmbeddingSettings
from adapters.local.image import ImageModel, ImageSettings
from adapters.local.registry import Model
from adapters.local.resident import ResidentSettings, share_of_cores
from adapters.local.server import run
from adapters.local.speech import SpeechModel, SpeechSettings
from adapters.local.text import TextModel, TextSettings
from adapters.local.transcription import TranscriptionModel, TranscriptionSettings

_POSITIVE = click.IntRange(min=1)


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8090, show_default=True, help="Port; 0 takes a free one.")
@click.option("--fd", type=int, help="Inherited listening socket, instead of --host and --port.")
@click.option(
    "--slots", type=_POSITIVE, default=2, show_default=True, help="Text generations at a time."
)
@click.option("--threads", type=_POSITIVE, help="Threads of the text model.  [default: cores - 1]")
@click.option(
    "--idle-seconds",
    type=click.FloatRange(min=0),
    default=300.0,
    show_default=True,
    help="How long a model other than text stays in memory after its last use.",
)
@click.option(
    "--load-delay-seconds",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default=True,
    help="Wait before loading, to pretend a cold start.",
)
def main(
    host: str,
    port: int,
    fd: int | None,
    slots: int,
    threads: int | None,
    idle_seconds: float,
    load_delay_seconds: float,
) -> None:
    """Serve the native Hugging Face model API over small models on this machine."""
    # numpy's matrix products take all cores unless they are told otherwise before its import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", str(share_of_cores()))
    text = TextSettings(slots=slots, load_delay_seconds=load_delay_seconds)
    if threads is not None:
        text = replace(text, threads=threads)
    resident = ResidentSettings(idle_seconds=idle_seconds, load_delay_seconds=load_delay_seconds)
    models: list[Model] = [
        TextModel(text),
        ImageModel(ImageSettings(resident=resident)),
        SpeechModel(SpeechSettings(resident=resident)),
        EmbeddingModel(EmbeddingSettings(resident=resident)),
        TranscriptionModel(TranscriptionSettings(resident=resident)),
    ]
    run(models, host=host, port=port, fd=fd)


if __name__ == "__main__":
    main()
