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

from adapters.base import Call, Decoder, Json, StreamTranslator
from adapters.errors import ModelMissing, Rejected, UpstreamError
from adapters.http import Reply
from gateway.upstreams.errand import Errand
from gateway.upstreams.opening import open_accepted, open_reply
from gateway.upstreams.watcher import LEFT, OK, outcome_of, watched

LONGEST_ANSWER_BYTES = 64 * 1024 * 1024

T = TypeVar("T")


class Source:
    """One call's stream. `first`: the chunks that came with its first event.

    `whole` is the answer, if it came in one piece although a stream was asked for: not all
    servers stream.
    """

    whole: Json | None = None

    def __init__(self, errand: Errand, call: Call, reply: Reply, decoder: Decoder) -> None:
        self.call = call
        self.first: list[Json] = []
        self._errand = errand
        self._reply = reply
        self._decoder = decoder
        self._blocks = reply.chunks()
        self._outcome: str | None = LEFT  # None once it was told

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
            self._outcome = outcome_of(exc)
            _note(self._errand, exc)
            raise
        if decoder.done and not decoder.ended:
            await self._reply.aclose()
        return chunks

    async def aclose(self) -> None:
        """Hang up, unless the answer came to its end: then keep the connection."""
        self._tell()
        if self._decoder.ended:
            await self._reply.drain()
        else:
            await self._reply.aclose()

    def _tell(self) -> None:
        """Tell what came of the call, once."""
        outcome, self._outcome = self._outcome, None
        if outcome:
            is_whole = outcome == LEFT and self._decoder.done
            target = self._errand.target
            target.upstream.watcher.called(target, OK if is_whole else outcome)


class Whole(Source):
    """An answer that came in one piece."""

    def __init__(
        self, errand: Errand, call: Call, reply: Reply, decoder: Decoder, answer: Json
    ) -> None:
        super().__init__(errand, call, reply, decoder)
        decoder.done = decoder.ended = True
        self.whole = answer


async def fetch(errand: Errand, calls: Sequence[Call]) -> list[Json]:
    """Return the whole answers of `calls`, in order. Raises UpstreamError."""
    return await _each(calls, partial(_answer, errand), errand)


async def stream(errand: Errand, calls: Sequence[Call]) -> list[Source]:
    """Return the streams of `calls`, in order, each with its first chunks. Raises UpstreamError."""
    return await _each(calls, partial(_source, errand), errand)


async def raw(
    errand: Errand,
    call: Call,
    read: Callable[[Reply], Awaitable[T]],
    *,
    is_path_given: bool = False,
) -> T:
    """Return what `read` makes of the reply to `call`: its translator is not asked.

    `is_path_given`: a part of the path is the client's, so that a 404 is no word about the model,
    which would be believed for a while. The reply is closed if `read` fails, else by whoever gets
    the result, who also tells the target's watcher of the call's success. Raises UpstreamError.
    """

    async def send(call: Call) -> T:
        try:
            reply = await open_reply(errand, call)
        except ModelMissing as exc:
            if is_path_given:
                raise Rejected(exc.message, status=exc.status) from None
            raise
        try:
            with watched(errand.target, success=None):
                return await read(reply)
        except BaseException:
            await reply.aclose()
            raise

    [made] = await _each((call,), send, errand)
    return made


async def _each(
    calls: Sequence[Call], send: Callable[[Call], Awaitable[T]], errand: Errand
) -> list[T]:
    """Send all calls at once."""
    target = errand.target
    seconds = target.upstream.load_wait_seconds if errand.waits else 0
    when_loaded = target.cold_start.when_loaded
    if refusal := target.refusal(errand.request.task):
        raise refusal
    with noting(errand):
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


async def _answer(errand: Errand, call: Call) -> Json:
    reply = await open_accepted(errand, call)
    with watched(errand.target):
        body = await reply.read(LONGEST_ANSWER_BYTES)
        answer = errand.translator.answer(errand.request, call, headers=reply.headers, body=body)
        return await errand.target.upstream.results.fetched(answer)


async def _source(errand: Errand, call: Call) -> Source:
    reply = await open_accepted(errand, call)
    request, translator = errand.request, cast("StreamTranslator", errand.translator)
    decoder = translator.decoder(request, call)
    try:
        with watched(errand.target, success=None):
            if reply.headers.get("content-type", "").startswith("application/json"):
                body = await reply.read(LONGEST_ANSWER_BYTES)
                answer = translator.answer(request, call, headers=reply.headers, body=body)
                return Whole(errand, call, reply, decoder, answer)
            source = Source(errand, call, reply, decoder)
            await source.open()
    except BaseException:
        await reply.aclose()
        raise
    return source


@contextmanager
def noting(errand: Errand) -> Iterator[None]:
    """Let the target know what came of the block: an answer, or an error that it is to blame for.

    The credential is taken out of what an upstream says of it: errors reach clients and logs.
    """
    try:
        yield
    except UpstreamError as exc:
        _note(errand, exc)
        raise
    errand.target.note(errand.request.task, None)


def _note(errand: Errand, error: UpstreamError) -> None:
    error.message = errand.target.upstream.discreet(error.message)
    error.args = (error.message,)
    errand.target.note(errand.request.task, error)
