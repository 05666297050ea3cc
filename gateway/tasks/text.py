"""Chats and completions: prompts rendered, calls sent, one answer or one stream made of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from adapters.base import Call, Json, Plan, Request, Task
from adapters.errors import ContextTooLong
from adapters.parameters import most_tokens
from gateway import sending
from gateway.amounts import Usage
from gateway.answers import Head, finish_reason_of, render_answer
from gateway.catalog import Target
from gateway.chunks import StreamEncoder
from gateway.errors import BadRequest
from gateway.exchange import Body, Exchange, Route
from gateway.prompt_size import PromptSize
from gateway.prompts import Prompts
from gateway.streaming import AnswerStream
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
        plan = await _plan(request, target)
        exchange.ignored = plan.ignored
        count = self._prompts.counter(model)
        prompts = PromptSize(request, count=count)
        each = request.body.get("n", 1)
        return TextJob(
            exchange=exchange,
            route=route,
            request=request,
            calls=plan.calls,
            choices=choices,
            meter=UsageMeter(exchange.usage, prompts, choices=each, count=count),
            estimate=Usage(
                input_tokens=await prompts.at_most(exactly=exchange.counts_tokens),
                output_tokens=_drawn(request, plan) * choices // each * most_tokens(request),
            ),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextJob:
    """The calls of one exchange. `choices`: how many the client is to get."""

    exchange: Exchange
    route: Route
    request: Request
    calls: tuple[Call, ...]
    choices: int
    meter: UsageMeter
    estimate: Usage

    async def send(self) -> Body | AnswerStream:
        """Return the answer. Raises UpstreamError."""
        try:
            return await (self._stream() if self.exchange.is_stream else self._whole())
        except ContextTooLong as exc:
            exc.param = exc.param or _LONG_PARAMS[self.exchange.task]
            raise

    async def _whole(self) -> Body:
        """Return the body of a whole answer."""
        exchange = self.exchange
        try:
            with exchange.waiting():
                answers = await sending.fetch(
                    self.route.target,
                    self.request,
                    self.calls,
                    wait=exchange.wait_for_model,
                    note=self.meter.note,
                )
        finally:
            usage = await self.meter.settle()
        body = Body(render_answer(self._head(), answers, usage))
        exchange.finish = _finish_of(answers)
        return body

    async def _stream(self) -> AnswerStream:
        """Return the frames, once every upstream stream has sent its first event."""
        exchange = self.exchange
        with exchange.waiting():
            sources = await sending.stream(
                self.route.target, self.request, self.calls, wait=exchange.wait_for_model
            )
        options = exchange.body.get("stream_options") or {}
        encoder = StreamEncoder(
            self._head(),
            choices=self.choices,
            include_usage=options.get("include_usage") is True,
        )
        return AnswerStream(exchange, sources, encoder=encoder, meter=self.meter)

    def _head(self) -> Head:
        """Return what all objects of the answer share."""
        exchange = self.exchange
        return Head(
            task=exchange.task,
            id=exchange.id.replace("-", ""),
            created=exchange.created,
            model=exchange.body["model"],
            fingerprint=self.route.model.fingerprint,
        )


async def _plan(request: Request, target: Target) -> Plan:
    """Return the calls, made in a thread where images make them large. Raises DialectError."""
    plan = target.upstream.dialect[request.task].plan
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
