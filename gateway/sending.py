"""A plan's calls, sent: whole answers, or streams whose first event is there.

An error that comes before anything was handed out is raised with its true type, whether the
upstream told it by status, by its first event or by a JSON object under status 200.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TypeVar, cast

from adapters import refusals
from adapters.base import Call, Decoder, Json, Request, StreamTranslator
from adapters.errors import UpstreamError
from adapters.http import Reply
from gateway.catalog import Target, Upstream

_PAST_CACHES = {"x-use-cache": "0"}  # the native API's own switch
_LONGEST_ERROR_BYTES = 64 * 1024
_LONGEST_ANSWER_BYTES = 64 * 1024 * 1024

T = TypeVar("T")


class Source:
    """One call's stream. `first`: the chunks that came with its first event.

    `whole` is the answer, if it came in one piece although a stream was asked for: not all
    servers stream.
    """

    whole: Json | None = None

    def __init__(self, upstream: Upstream, call: Call, reply: Reply, decoder: Decoder) -> None:
        self.call = call
        self.first: list[Json] = []
        self._upstream = upstream
        self._reply = reply
        self._decoder = decoder
        self._blocks = reply.chunks()

    @property
    def is_done(self) -> bool:
        """Whether nothing more is to come, or wanted."""
        return self._decoder.done

    @property
    def tokens(self) -> int | None:
        """How many have come, None where its protocol does not show them one by one."""
        return self._decoder.tokens

    async def open(self) -> None:
        """Read until the first chunks are there."""
        while not self.first and not self.is_done:
            self.first = await self.read()

    async def read(self) -> list[Json]:
        """Return the chunks of the next read, maybe none. Raises UpstreamError.

        An upstream that would go on, though nothing more is wanted, is cut off at once.
        """
        decoder = self._decoder
        try:
            if decoder.failure:
                raise decoder.failure
            block = await anext(self._blocks, None)
            if block is None:
                chunks = decoder.end()
                decoder.done = True
            else:
                chunks = decoder.feed(block)
        except UpstreamError as exc:
            _conceal_credential(exc, self._upstream)
            raise
        if decoder.done and not decoder.ended:
            await self._reply.aclose()
        return chunks

    async def aclose(self) -> None:
        """Hang up, unless the answer came to its end: then keep the connection."""
        if self._decoder.ended:
            await self._reply.drain()
        else:
            await self._reply.aclose()


class Whole(Source):
    """An answer that came in one piece."""

    def __init__(
        self, upstream: Upstream, call: Call, reply: Reply, decoder: Decoder, answer: Json
    ) -> None:
        super().__init__(upstream, call, reply, decoder)
        decoder.done = decoder.ended = True
        self.whole = answer


async def fetch(
    target: Target,
    request: Request,
    calls: Sequence[Call],
    *,
    wait: bool,
    note: Callable[[Call, Json], None] | None = None,
) -> list[Json]:
    """Return the whole answers of `calls`, in order; `note` gets each as it comes.

    Raises UpstreamError.
    """
    return await _each(calls, partial(_answer, target, request, note), target, wait=wait)


async def stream(
    target: Target, request: Request, calls: Sequence[Call], *, wait: bool
) -> list[Source]:
    """Return the streams of `calls`, in order, each with its first chunks. Raises UpstreamError."""
    return await _each(calls, partial(_source, target, request), target, wait=wait)


async def _each(
    calls: Sequence[Call],
    send: Callable[[Call], Awaitable[T]],
    target: Target,
    *,
    wait: bool,
) -> list[T]:
    """Send all calls at once."""
    seconds = target.upstream.load_wait_seconds if wait else 0
    when_loaded = target.cold_start.when_loaded
    with _discreet(target.upstream):
        if len(calls) == 1:
            return [await when_loaded(partial(send, calls[0]), wait_seconds=seconds)]
        return await _all_of(
            [when_loaded(partial(send, call), wait_seconds=seconds) for call in calls]
        )


async def _all_of(attempts: Sequence[Awaitable[T]]) -> list[T]:
    """Wait for all; if one fails, the others are ended too."""
    tasks = [asyncio.ensure_future(attempt) for attempt in attempts]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(result, Source):
                await result.aclose()
        raise


async def _answer(
    target: Target, request: Request, note: Callable[[Call, Json], None] | None, call: Call
) -> Json:
    reply = await _open(target, request, call)
    body = await reply.read(_LONGEST_ANSWER_BYTES)
    translator = target.upstream.dialect[request.task]
    answer = translator.answer(request, call, headers=reply.headers, body=body)
    if note:
        note(call, answer)
    return answer


async def _source(target: Target, request: Request, call: Call) -> Source:
    reply = await _open(target, request, call)
    translator = cast("StreamTranslator", target.upstream.dialect[request.task])
    decoder = translator.decoder(request, call)
    try:
        if reply.headers.get("content-type", "").startswith("application/json"):
            body = await reply.read(_LONGEST_ANSWER_BYTES)
            answer = translator.answer(request, call, headers=reply.headers, body=body)
            return Whole(target.upstream, call, reply, decoder, answer)
        source = Source(target.upstream, call, reply, decoder)
        await source.open()
    except BaseException:
        await reply.aclose()
        raise
    return source


async def _open(target: Target, request: Request, call: Call) -> Reply:
    """Return the reply of status 200. Raises UpstreamError for any other."""
    headers = None if request.use_cache else _PAST_CACHES
    reply = await target.upstream.server.open(call, headers=headers)
    if reply.status == 200:
        return reply
    body = await reply.read(_LONGEST_ERROR_BYTES)
    raise refusals.from_response(reply.status, reply.headers, body)


@contextmanager
def _discreet(upstream: Upstream) -> Iterator[None]:
    """Take the credential out of what an upstream says of it: errors reach clients and logs."""
    try:
        yield
    except UpstreamError as exc:
        _conceal_credential(exc, upstream)
        raise


def _conceal_credential(error: UpstreamError, upstream: Upstream) -> None:
    error.message = upstream.discreet(error.message)
    error.args = (error.message,)
