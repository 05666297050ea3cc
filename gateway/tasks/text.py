"""Chats and completions: prompts rendered, calls sent, one answer or one stream made of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from adapters.base import Call, Json, Plan, Request, Task
from adapters.errors import ContextTooLong
from gateway import sending
from gateway.answers import Head, render_answer
from gateway.catalog import Target
from gateway.chunks import StreamEncoder
from gateway.errors import BadRequest
from gateway.exchange import Body, Exchange, Route
from gateway.prompts import Prompts
from gateway.streaming import AnswerStream
from gateway.usage import UsageMeter
from gateway.vision import Vision

_MOST_CHOICES = 128
_LONG_PARAMS = {Task.CHAT: "messages", Task.COMPLETION: "prompt"}


@dataclass(frozen=True, slots=True)
class _Job:
    """What is sent for one exchange, and how its tokens are counted."""

    request: Request
    calls: tuple[Call, ...]
    meter: UsageMeter
    choices: int


class TextTask:
    """Answers an exchange with text."""

    def __init__(self, prompts: Prompts, vision: Vision) -> None:
        self._prompts = prompts
        self._vision = vision

    async def __call__(self, exchange: Exchange, route: Route) -> Body | AnswerStream:
        """Return the answer. Raises GatewayError, UpstreamError, DialectError."""
        choices = _choices(exchange)
        model, target = route.model, route.target
        request = await self._prompts.translate(exchange.task, exchange.body, model, target)
        if exchange.task is Task.CHAT:
            request = await self._vision(request, exchange, target)
        plan = await _plan(request, target)
        exchange.ignored = plan.ignored
        meter = UsageMeter(request, count=self._prompts.counter(model))
        job = _Job(request, plan.calls, meter, choices)
        try:
            return await (self._stream if exchange.is_stream else self._fetch)(exchange, route, job)
        except ContextTooLong as exc:
            exc.param = exc.param or _LONG_PARAMS[exchange.task]
            raise

    async def _fetch(self, exchange: Exchange, route: Route, job: _Job) -> Body:
        """Return the body of a whole answer. Raises UpstreamError."""
        with exchange.waiting():
            answers = await sending.fetch(
                route.target, job.request, job.calls, wait=exchange.wait_for_model
            )
        for call, answer in zip(job.calls, answers, strict=True):
            job.meter.record(call, answer.get("usage") or {}, text=_text_of(answer))
        return Body(render_answer(_head(exchange, route), answers, await job.meter.total()))

    async def _stream(self, exchange: Exchange, route: Route, job: _Job) -> AnswerStream:
        """Return the frames, once every upstream stream has sent its first event.

        Raises UpstreamError.
        """
        with exchange.waiting():
            sources = await sending.stream(
                route.target, job.request, job.calls, wait=exchange.wait_for_model
            )
        options = exchange.body.get("stream_options") or {}
        encoder = StreamEncoder(
            _head(exchange, route),
            choices=job.choices,
            include_usage=options.get("include_usage") is True,
        )
        return AnswerStream(sources, encoder, job.meter)


async def _plan(request: Request, target: Target) -> Plan:
    """Return the calls, made in a thread where images make them large. Raises DialectError."""
    plan = target.upstream.dialect[request.task].plan
    return await asyncio.to_thread(plan, request) if request.images else plan(request)


def _head(exchange: Exchange, route: Route) -> Head:
    """Return what all objects of the answer share."""
    return Head(
        task=exchange.task,
        id=exchange.id.replace("-", ""),
        created=exchange.created,
        model=exchange.body["model"],
        fingerprint=route.model.fingerprint,
    )


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


def _text_of(answer: Json) -> str:
    texts = (
        choice.get("text") or (choice.get("message") or {}).get("content") or ""
        for choice in answer.get("choices") or ()
    )
    return "".join(texts)
