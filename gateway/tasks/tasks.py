"""All tasks, with the templates and tokenizers that they stand on."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack, suppress
from typing import Any, Self

from adapters.base import Task
from adapters.errors import DialectError
from gateway.config import Settings
from gateway.errors import from_dialect
from gateway.exchange import Exchange, Job, Route, TaskAnswer
from gateway.fetching import ImageFetcher
from gateway.image_files import ImageFiles
from gateway.prompts import Prompts
from gateway.tasks.embedding import EmbeddingTask
from gateway.tasks.image import ImageTask
from gateway.tasks.speech import SpeechTask
from gateway.tasks.text import TextTask
from gateway.tasks.transcription import TranscriptionTask
from gateway.template_shelf import TemplateShelf
from gateway.templates import Template, TemplateUnavailable
from gateway.tokenizer import Tokenizer
from gateway.upstreams.target import Model
from gateway.vision import Vision


class Tasks:
    """What makes the answers of all tasks for `models`. Entered as a context, templates load.

    `files` keeps images that are asked for by address.
    """

    def __init__(
        self, models: Iterable[Model], settings: Settings, files: ImageFiles | None = None
    ) -> None:
        models = tuple(models)
        seconds = settings.server.template_wait_seconds
        self.templates = TemplateShelf(
            _sources(models, Task.CHAT), load=Template.load, wait_seconds=seconds
        )
        self.tokenizers = TemplateShelf(
            _sources(models, Task.EMBEDDING), load=Tokenizer.load, wait_seconds=seconds
        )
        text = TextTask(Prompts(self.templates), _vision(settings))
        self._by_task: dict[Task, TaskAnswer] = {
            Task.CHAT: text,
            Task.COMPLETION: text,
            Task.IMAGE: ImageTask(files),
            Task.EMBEDDING: EmbeddingTask(self.tokenizers),
            Task.TRANSCRIPTION: TranscriptionTask(),
            Task.SPEECH: SpeechTask(),
        }

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opening:
            for shelf in self.shelves:
                await opening.enter_async_context(shelf)
            self._closing = opening.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._closing.aclose()

    @property
    def shelves(self) -> tuple[TemplateShelf[Any], ...]:
        """What loads."""
        return self.templates, self.tokenizers

    async def loaded(self) -> None:
        """Wait until all is loaded that can be."""
        for shelf in self.shelves:
            for source in shelf.pending:
                with suppress(TemplateUnavailable):  # it is told where it is wanted
                    await shelf.get(source)

    async def prepare(self, exchange: Exchange, route: Route) -> Job:
        """Return what is to be sent along `route`, which is the exchange's from now on.

        Raises GatewayError.
        """
        exchange.route = route
        try:
            return await self._by_task[exchange.task].prepare(exchange, route)
        except DialectError as exc:
            raise from_dialect(exc) from None


def _vision(settings: Settings) -> Vision:
    return Vision(ImageFetcher().fetch if settings.security.fetch_images else None)


def _sources(models: Iterable[Model], task: Task) -> Iterable[str]:
    """Return the tokenizers of the models that serve `task`, each once."""
    used = (model.tokenizer for model in models if model.task == task)
    return dict.fromkeys(source for source in used if source)
