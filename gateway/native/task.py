"""Requests of the native API's clients: passed on where the server speaks it, else translated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from adapters.base import Task
from gateway.amounts import Usage
from gateway.counting import Count
from gateway.exchange import Answer, Body, Exchange, Job, Route, TaskAnswer
from gateway.native.pipeline import prepare_pipeline
from gateway.native.request import NativeRequest
from gateway.native.text import prepare_text, tell
from gateway.native.translation import IN_NATIVE, translate
from gateway.prompts import Prompts
from gateway.tapes import Part, Tape
from gateway.template_shelf import TemplateShelf
from gateway.templates import Template
from gateway.tokenizer import Tokenizer
from gateway.upstreams.target import Model


class BothFaces:
    """Answers exchanges of any task: those of the native API itself, the others by `tasks`."""

    def __init__(
        self,
        tasks: TaskAnswer,
        templates: TemplateShelf[Template],
        tokenizers: TemplateShelf[Tokenizer],
    ) -> None:
        self._tasks = tasks
        self._prompts = Prompts(templates)
        self._tokenizers = tokenizers

    async def prepare(self, exchange: Exchange, route: Route) -> Job:
        """Return what is to be sent. Raises GatewayError, DialectError."""
        asked = exchange.native
        if asked is None:
            return await self._tasks.prepare(exchange, route)
        exchange.route, exchange.unheard = route, ()
        if not route.target.upstream.is_native:
            return await self._translated(exchange, route, asked)
        if exchange.task is Task.COMPLETION:
            return await prepare_text(exchange, route, asked, self._prompts.counter(route.model))
        return await prepare_pipeline(exchange, route, asked, self._counter(route.model))

    async def _translated(self, exchange: Exchange, route: Route, asked: NativeRequest) -> Job:
        task = exchange.task
        said = translate(task, asked, max_tokens=route.model.max_tokens_default)
        exchange.body = {"model": exchange.model, **said.body}
        exchange.media, exchange.unheard = said.media, said.unheard
        job = await self._tasks.prepare(exchange, route)
        return _TranslatedJob(exchange, job, convert=IN_NATIVE.get(task, _as_it_is))

    def _counter(self, model: Model) -> Count | None:
        """Return what counts a text's tokens as `model` does, None if nothing here can."""
        tokenizer = self._tokenizers.loaded(model.tokenizer) if model.tokenizer else None
        return None if tokenizer is None else lambda text: tokenizer.count([text])


@dataclass(frozen=True, slots=True)
class _TranslatedJob:
    """A job of OpenAI's, whose whole answers are told in the native API's form by `convert`."""

    exchange: Exchange
    job: Job
    convert: Callable[[Body], Body]

    @property
    def estimate(self) -> Usage:
        """What it may use at most."""
        return self.job.estimate

    @property
    def is_repeatable(self) -> bool:
        """Whether made again it would be the same."""
        return self.job.is_repeatable

    @property
    def parts(self) -> Sequence[Part]:
        """What it is made of."""
        return self.job.parts

    async def answer(self, tapes: Sequence[Tape]) -> Answer:
        """Return the answer. Raises GatewayError, UpstreamError."""
        answer = await self.job.answer(tapes)
        tell(self.exchange, ())
        return self.convert(answer) if isinstance(answer, Body) else answer


def _as_it_is(answer: Body) -> Body:
    return answer
