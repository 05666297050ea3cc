"""One exchange: a client's request on its way to an upstream and back.

Every request takes this way, whatever its task and the protocol that it came by.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from adapters.base import Json, Plan, Request, Task
from adapters.errors import DialectError, UpstreamError
from gateway import sending
from gateway.answers import Head, render_answer
from gateway.catalog import Catalog, Model, Target
from gateway.chunks import StreamEncoder
from gateway.errors import BadRequest, from_dialect, from_upstream
from gateway.keys import Caller
from gateway.prompts import Prompts
from gateway.streaming import AnswerStream
from gateway.usage import UsageMeter

_MOST_CHOICES = 128


@dataclass(frozen=True, slots=True)
class Route:
    """Where an exchange goes, and what is sent there."""

    model: Model
    target: Target
    request: Request
    plan: Plan
    meter: UsageMeter
    choices: int


@dataclass(slots=True, kw_only=True)
class Exchange:
    """One request: what came in, and what became of it."""

    id: str
    task: Task
    caller: Caller
    body: Json
    wait_for_model: bool = True
    route: Route | None = None
    upstream_ms: float = 0
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def is_stream(self) -> bool:
        """Whether the client asked for events. Its `Accept` says nothing: SDKs send JSON's."""
        return self.body.get("stream") is True

    def head(self, model: Model) -> Head:
        """Return what all objects of the answer share."""
        return Head(
            task=self.task,
            id=self.id.replace("-", ""),
            created=self.created,
            model=self.body["model"],
            fingerprint=model.fingerprint,
        )

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time spent inside as time spent waiting for the upstream."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.upstream_ms += (time.perf_counter() - began) * 1000


class Relay:
    """Sends exchanges on, and brings back a whole body or a stream of frames."""

    def __init__(self, catalog: Catalog, prompts: Prompts) -> None:
        self._catalog = catalog
        self._prompts = prompts

    async def __call__(self, exchange: Exchange) -> bytes | AnswerStream:
        """Return the answer; a stream is closed by whoever gets it.

        Raises GatewayError, but never once a stream has begun.
        """
        choices = _choices(exchange)
        model = self._catalog.resolve(exchange.body["model"], exchange.caller, task=Task.CHAT)
        target = model.pick()
        send = self._stream if exchange.is_stream else self._fetch
        try:
            exchange.route = await self._find_route(exchange, model, target, choices=choices)
            answer = await send(exchange, exchange.route)
        except DialectError as exc:
            raise from_dialect(exc) from None
        except UpstreamError as exc:
            target.note(exc)
            raise from_upstream(exc) from exc
        target.note(None)
        return answer

    async def _find_route(
        self, exchange: Exchange, model: Model, target: Target, *, choices: int
    ) -> Route:
        request = await self._prompts.translate(exchange.task, exchange.body, model, target)
        plan = target.upstream.dialect.plan(request)
        meter = UsageMeter(request, count=self._prompts.counter(model))
        return Route(model, target, request, plan, meter, choices)

    async def _fetch(self, exchange: Exchange, route: Route) -> bytes:
        """Return the body of a whole answer. Raises UpstreamError."""
        calls = route.plan.calls
        with exchange.waiting():
            answers = await sending.fetch(
                route.target, route.request, calls, wait=exchange.wait_for_model
            )
        for call, answer in zip(calls, answers, strict=True):
            route.meter.record(call, answer.get("usage") or {}, text=_text_of(answer))
        return render_answer(exchange.head(route.model), answers, await route.meter.total())

    async def _stream(self, exchange: Exchange, route: Route) -> AnswerStream:
        """Return the frames, once every upstream stream has sent its first event.

        Raises UpstreamError.
        """
        with exchange.waiting():
            sources = await sending.stream(
                route.target, route.request, route.plan.calls, wait=exchange.wait_for_model
            )
        options = exchange.body.get("stream_options") or {}
        encoder = StreamEncoder(
            exchange.head(route.model),
            choices=route.choices,
            include_usage=options.get("include_usage") is True,
        )
        return AnswerStream(sources, encoder, route.meter)


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
    choice = (answer.get("choices") or [{}])[0]
    return choice.get("text") or (choice.get("message") or {}).get("content") or ""
