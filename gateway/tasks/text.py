"""Chats and completions: prompts rendered, calls sent, one answer or one stream made of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import repeat

from adapters.base import Call, Json, Plan, Request, Task
from adapters.errors import ContextTooLong
from adapters.parameters import most_tokens
from gateway.amounts import Usage
from gateway.answers import finish_reason_of
from gateway.errors import BadRequest
from gateway.exchange import Body, Exchange, Route
from gateway.folding import fold
from gateway.prompt_size import PromptSize
from gateway.prompts import Prompts
from gateway.streaming import AnswerStream, Reader
from gateway.tapes import Piece, Tape, close_all
from gateway.tasks.text_part import Recipes, TextPart
from gateway.together import all_of
from gateway.upstreams.errand import Errand
from gateway.usage import UsageMeter
from gateway.vision import Vision

_MOST_CHOICES = 128
_LONG_PARAMS = {Task.CHAT: "messages", Task.COMPLETION: "prompt"}


class TextTask:
    """Answers an exchange with text."""

    def __init__(self, prompts: Prompts, vision: Vision) -> None:
        self._prompts = prompts
        self._vision = vision

    async def prepare(self, exchange: Exchange, route: Route) -> TextJob:
        """Return the calls, their prompts rendered. Raises GatewayError, DialectError."""
        choices = _choices(exchange)
        model, target = route.model, route.target
        request = await self._prompts.translate(exchange.task, exchange.body, model, target)
        if exchange.task is Task.CHAT:
            request = await self._vision(request, exchange, target)
        if not exchange.use_upstream_cache:
            request = replace(request, use_cache=False)
        errand = exchange.errand(route, request)
        plan = await _plan(errand)
        exchange.ignored = plan.ignored
        count = self._prompts.counter(model)
        prompts = PromptSize(request, count=count)
        each = request.body.get("n", 1)
        recipes = Recipes(errand, plan)
        return TextJob(
            exchange=exchange,
            route=route,
            choices=choices,
            is_repeatable=recipes.is_repeatable,
            parts=[
                TextPart(
                    errand=errand,
                    call=call,
                    at=at,
                    choices=choices // len(plan.calls),
                    recipes=recipes,
                )
                for at, call in enumerate(plan.calls)
            ],
            meter=UsageMeter(exchange.usage, prompts, choices=each, count=count),
            estimate=Usage(
                input_tokens=await prompts.at_most(exactly=exchange.counts_tokens),
                output_tokens=_drawn(request, plan) * choices // each * most_tokens(request),
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextJob:
    """The texts of one exchange. `choices`: how many the client is to get."""

    exchange: Exchange
    route: Route
    choices: int
    is_repeatable: bool
    parts: Sequence[TextPart]
    meter: UsageMeter
    estimate: Usage

    async def answer(self, tapes: Sequence[Tape]) -> Body | AnswerStream:
        """Return the answer, a stream once all tapes have begun.

        Raises GatewayError, UpstreamError.
        """
        try:
            return await (self._stream(tapes) if self.exchange.is_stream else self._whole(tapes))
        except BaseException as exc:
            await close_all(tapes)
            if isinstance(exc, ContextTooLong):
                exc.param = exc.param or _LONG_PARAMS[self.exchange.task]
            raise

    async def _whole(self, tapes: Sequence[Tape]) -> Body:
        """Return the body of a whole answer."""
        exchange = self.exchange
        try:
            with exchange.waiting():
                answers = await self._read(tapes)
        finally:
            usage = await self.meter.settle()
        body = Body(exchange.form.whole(exchange.head(self.route.model), answers, usage))
        exchange.finish = _finish_of(answers)
        return body

    async def _read(self, tapes: Sequence[Tape]) -> list[Json]:
        """Return the whole answers of all tapes."""
        came: list[list[Piece]] = [[] for _ in tapes]
        readers = map(Reader, tapes, self._calls, repeat(self.meter))
        await all_of(
            [reader.read_all(pieces) for reader, pieces in zip(readers, came, strict=True)]
        )
        await close_all(tapes)
        return [fold(pieces) for pieces in came]

    async def _stream(self, tapes: Sequence[Tape]) -> AnswerStream:
        """Return the frames, once every tape has brought its first piece."""
        exchange = self.exchange
        head = exchange.head(self.route.model)
        encoder = exchange.form.encoder(head, choices=self.choices, body=exchange.body)
        stream = AnswerStream(exchange, tapes, calls=self._calls, encoder=encoder, meter=self.meter)
        with exchange.waiting():
            await stream.open()
        return stream

    @property
    def _calls(self) -> list[Call]:
        return [part.call for part in self.parts]


async def _plan(errand: Errand) -> Plan:
    """Return the calls, made in a thread where images make them large. Raises DialectError."""
    plan, request = errand.translator.plan, errand.request
    return await asyncio.to_thread(plan, request) if request.images else plan(request)


def _choices(exchange: Exchange) -> int:
    """Return how many choices the client is to get: `n` for each prompt.

    Raises BadRequest for more than one request may ask for.
    """
    choices: int = exchange.body.get("n", 1)
    prompt = exchange.body.get("prompt") if exchange.task is Task.COMPLETION else None
    if isinstance(prompt, list) and not isinstance(prompt[0], int):
        choices *= len(prompt)
    if choices > _MOST_CHOICES:
        raise BadRequest(
            f"'n' times the number of prompts is {choices}: at most {_MOST_CHOICES} are made.",
            code="above_max_value",
            param="n",
        )
    return choices


def _drawn(request: Request, plan: Plan) -> int:
    """Return how many choices the upstream makes for each prompt, of which the client gets `n`."""
    choices: int = request.body.get("n", 1)
    best_of: int = request.body.get("best_of", 1)
    return choices if "best_of" in plan.ignored else max(choices, best_of)


def _finish_of(answers: list[Json]) -> str:
    """Return the finish reason of the first choice, as the client gets it."""
    choice = next(choice for answer in answers for choice in answer.get("choices") or ())
    called = bool((choice.get("message") or {}).get("tool_calls"))
    return finish_reason_of(choice.get("finish_reason"), called=called)
