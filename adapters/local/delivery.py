"""Answers on their way to a client that may leave at any moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from litestar import Request, Response
from litestar.background_tasks import BackgroundTask
from litestar.response import Stream

from adapters.local.answer import KEEP_ALIVE
from adapters.local.problems import Problem
from adapters.local.registry import Frames, Streamed, Whole

AnswerT = TypeVar("AnswerT")


def whole_response(answer: Whole) -> Response[bytes]:
    """Return the response of a complete answer."""
    return Response(
        content=answer.body,
        status_code=answer.status,
        headers=dict(answer.headers),
        media_type=answer.media_type,
    )


def problem_response(_request: Request[Any, Any, Any], problem: Problem) -> Response[bytes]:
    """Return the response of an answer that is an error."""
    return Response(
        content=problem.render(), status_code=problem.status, media_type=problem.media_type
    )


def stream_response(answer: Streamed, *, keep: Callable[[Whole], None]) -> Response[Any]:
    """Return the response that streams `answer`; `keep` gets all of it after a good end.

    The computation is cancelled once the response is over, however it ended.
    """
    return Stream(
        _keeping(answer, keep),
        headers=dict(answer.headers),
        media_type=answer.media_type,
        background=BackgroundTask(_cancel, answer.frames),
    )


async def while_connected(
    request: Request[Any, Any, Any], work: Coroutine[Any, Any, AnswerT]
) -> AnswerT | None:
    """Return what `work` returns, or cancel it and return None when the client leaves."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        working.cancel()
        leaving.cancel()


async def _keeping(answer: Streamed, keep: Callable[[Whole], None]) -> AsyncIterator[bytes]:
    sent = bytearray()
    try:
        async for frame in answer.frames:
            if frame != KEEP_ALIVE:
                sent += frame
            yield frame
    finally:
        answer.frames.cancel()
    if answer.frames.complete:
        keep(Whole(body=bytes(sent), headers=answer.headers, media_type=answer.media_type))


async def _cancel(frames: Frames) -> None:
    frames.cancel()


async def _left(request: Request[Any, Any, Any]) -> None:
    """Return when the client has closed its connection. The body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
