"""What a server of the native API answers, as it comes: bytes for the client, looked into as far as
the gateway must.

A whole answer is one piece, `[body, content type, headers]`. Each piece of a stream is
`[events, headers]`: the data of the events of one read, and with the first of them the headers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from adapters import refusals
from adapters.base import Call
from adapters.errors import Interrupted, UpstreamError
from adapters.generation import parse_answer, parse_event
from adapters.http import Reply
from adapters.sse import EventParser
from gateway.native.request import JSON
from gateway.tapes import Piece, Recipe
from gateway.upstreams import sending
from gateway.upstreams.errand import Errand
from gateway.upstreams.watcher import LEFT, OK, outcome_of, watched

_TOLD = frozenset(
    "x-sha x-prompt-tokens x-generated-tokens x-total-time x-validation-time x-queue-time "
    "x-inference-time x-time-per-token".split()
)
_ABOUT_COMPUTING = "x-compute-"
_DONE = b"[DONE]"  # some servers end native streams as OpenAI's

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class NativePart:
    """The answer to one call, whole or streamed. `is_text`: it is a generated text.

    `is_path_given`: the client has named the task in its path.
    """

    errand: Errand
    call: Call
    is_path_given: bool
    is_text: bool = False

    @property
    def calls(self) -> tuple[Call]:
        """The only one."""
        return (self.call,)

    def recipe(self) -> Recipe:
        """Return what it depends on: also that it is kept as it came, not as OpenAI's objects."""
        return Recipe(calls=self.calls, form={"face": "native"})

    def make(self) -> AsyncGenerator[Piece]:
        """Have it made. Raises UpstreamError."""
        return self._streamed() if self.errand.request.stream else self._whole()

    def is_sound(self, pieces: Sequence[Piece]) -> bool:
        """Tell whether it came to its end and holds something."""
        return bool(pieces) and pieces[-1].is_last and bool(pieces[-1].content[0])

    async def _sent(self, read: Callable[[Reply], Awaitable[T]]) -> T:
        return await sending.raw(self.errand, self.call, read, is_path_given=self.is_path_given)

    async def _whole(self) -> AsyncGenerator[Piece]:
        body, kind, headers = await self._sent(_read_whole)
        with watched(self.errand.target):
            if self.is_text:
                with sending.noting(self.errand):
                    parse_answer(body)
        yield Piece([body, kind, headers], is_last=True)

    async def _streamed(self) -> AsyncGenerator[Piece]:
        events = await self._sent(_begun)
        outcome = LEFT
        try:
            with sending.noting(self.errand):
                yield Piece([events.first, events.headers], is_last=events.is_over)
                while not events.is_over:
                    if payloads := await events.read():
                        yield Piece([payloads, []], is_last=events.is_over)
        except UpstreamError as error:
            outcome = outcome_of(error)
            raise
        finally:
            target = self.errand.target
            target.upstream.watcher.called(target, OK if events.is_over else outcome)
            await events.aclose()


class _Events:
    """A stream of generated text. `first`: the data of the events that came with its first."""

    def __init__(self, reply: Reply) -> None:
        self.headers = told_headers(reply.headers)
        self.first: list[bytes] = []
        self.is_over = False
        self._failure: UpstreamError | None = None
        self._reply = reply
        self._parser = EventParser()
        self._blocks = reply.chunks()

    async def read(self) -> list[bytes]:
        """Return the data of the events of the next read, maybe none. Raises UpstreamError."""
        if self._failure:
            raise self._failure
        block = await anext(self._blocks, None)
        payloads = self._parser.end() if block is None else self._parser.feed(block)
        events = self._sound(payloads)
        if block is None and not self.is_over:
            self._fail(Interrupted("The upstream's stream ended before its last event."), events)
        return events

    async def aclose(self) -> None:
        """Hang up, unless the answer came to its end: then keep the connection."""
        await (self._reply.drain() if self.is_over else self._reply.aclose())

    def _sound(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Return the payloads up to the last word, or up to an error, which is kept for later."""
        events: list[bytes] = []
        try:
            for payload in payloads:
                if payload == _DONE or self.is_over:
                    continue
                self.is_over = parse_event(payload).is_last
                events.append(payload)
        except UpstreamError as exc:
            self._fail(exc, events)
        return events

    def _fail(self, error: UpstreamError, events: Sequence[bytes]) -> None:
        """Raise an error, once the events before it are handed out."""
        if not events:
            raise error
        self._failure = error


async def _begun(reply: Reply) -> _Events:
    """Return a stream whose first events are there: errors before them are true statuses."""
    events = _Events(reply)
    if reply.headers.get("content-type", "").startswith(JSON):  # not all servers stream
        body = await reply.read(sending.LONGEST_ANSWER_BYTES)
        events.first, events.is_over = [_only_event(body)], True
    while not events.first:
        events.first = await events.read()
    return events


async def _read_whole(reply: Reply) -> tuple[bytes, str, list[list[str]]]:
    body = await reply.read(sending.LONGEST_ANSWER_BYTES)
    kind = reply.headers.get("content-type", JSON)
    if kind.startswith(JSON) and body.lstrip()[:1] == b"{":
        refusals.parse_object(body)  # some servers tell errors under status 200
    return body, kind, told_headers(reply.headers)


def told_headers(headers: Mapping[str, str]) -> list[list[str]]:
    """Return those that clients of the native API look for."""
    return [
        [name, value]
        for name, value in headers.items()
        if name in _TOLD or name.startswith(_ABOUT_COMPUTING)
    ]


def _only_event(body: bytes) -> bytes:
    """Return a whole answer as the only event of a stream."""
    text = parse_answer(body).generated_text
    token = {"id": 0, "text": text, "logprob": None, "special": False}
    return msgspec.json.encode(
        {"index": 1, "token": token, "generated_text": text, "details": None}
    )
