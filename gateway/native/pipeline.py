"""All tasks but text as the native API has them, from servers that speak it: answers as they come.

What counts is found where the task has it:

    image                      one per request: the API makes no more
    speech                     the characters of `inputs`, and how long the sound lasts
    transcription              how long the sound lasts that was sent
    embedding, all others      the tokens of all texts in the body, told or counted
"""

from __future__ import annotations

import asyncio
import binascii
from base64 import b64decode
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from adapters.base import Call, Json, Request, Task
from adapters.native import told_count
from adapters.native_calls import native_path
from gateway.amounts import Usage
from gateway.audio import BadAudio, measure_seconds
from gateway.counting import Count, count_tokens, most_tokens_of
from gateway.errors import BadRequest
from gateway.exchange import Body, Exchange, Route
from gateway.native.part import NativePart
from gateway.native.request import NativeRequest
from gateway.native.text import tell
from gateway.tapes import Tape, collect

_MARKS = 2  # the tokens that sentence encoders put around each text
_TOKEN_COUNTS = ("x-prompt-tokens", "x-compute-tokens")  # TGI's spelling, TEI's
_PICTURES = {"accept": "image/png"}  # as `adapters.native_image`; endpoints answer base64 without


async def prepare_pipeline(
    exchange: Exchange, route: Route, asked: NativeRequest, count: Count | None
) -> NativeJob:
    """Return the call that passes the request on. Raises BadRequest."""
    target = route.target
    is_repeatable = _is_repeatable(exchange.task, asked)
    request = Request(
        task=exchange.task,
        model=target.model,
        body={},
        # See `prepare_text`.
        use_cache=exchange.use_upstream_cache and is_repeatable,
    )
    path = native_path(target.upstream.dialect_name, request.model, asked.operation, asked.pipeline)
    call = Call(path=path, body=asked.payload(), headers=_headers(exchange.task, asked))
    texts = [*_texts_in(asked.inputs)]
    return NativeJob(
        exchange=exchange,
        part=NativePart(
            errand=exchange.errand(route, request),
            call=call,
            is_path_given=asked.pipeline is not None,
        ),
        texts=texts,
        count=count,
        is_repeatable=is_repeatable,
        estimate=await _most(exchange.task, asked, texts),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeJob:
    """What one exchange gets. `texts` are those it is made of."""

    exchange: Exchange
    part: NativePart
    texts: Sequence[str]
    count: Count | None
    is_repeatable: bool
    estimate: Usage

    @property
    def parts(self) -> Sequence[NativePart]:
        """The only one."""
        return (self.part,)

    async def answer(self, tapes: Sequence[Tape]) -> Body:
        """Return the answer. Raises UpstreamError, GatewayError."""
        [tape] = tapes
        exchange = self.exchange
        with exchange.waiting():
            [piece] = await collect(tape)
        data, kind, headers = piece.content
        exchange.usage = await self._used(data, dict(headers))
        tell(exchange, headers)
        return Body(data, kind)

    async def _used(self, data: bytes, headers: Json) -> Usage:
        match self.exchange.task:
            case Task.IMAGE | Task.TRANSCRIPTION:
                return replace(self.estimate)
            case Task.SPEECH:
                return replace(self.estimate, audio_ms=await _duration_ms(data))
            case _:
                told = told_count(headers, *_TOKEN_COUNTS)
                if told is not None:
                    return Usage(input_tokens=told)
                counts = await count_tokens(self.texts, self.count)
                return Usage(input_tokens=sum(counts), estimated=True)


async def _most(task: Task, asked: NativeRequest, texts: Sequence[str]) -> Usage:
    """Return what a request may use at most. Raises BadRequest for a sound that is none."""
    match task:
        case Task.IMAGE:
            return Usage(images=1)
        case Task.SPEECH:
            return Usage(characters=sum(map(len, texts)))
        case Task.TRANSCRIPTION:
            return Usage(audio_ms=await _sound_ms(asked))
        case _:
            return Usage(input_tokens=sum(most_tokens_of(text) + _MARKS for text in texts))


async def _sound_ms(asked: NativeRequest) -> int:
    """Return how long the sound lasts that is to be heard. Raises BadRequest."""
    try:
        data = b64decode(asked.text, validate=True) if asked.is_json else asked.data
    except binascii.Error:
        raise _bad_sound("`inputs` must be a sound in base64") from None
    try:
        return round(1000 * await asyncio.to_thread(measure_seconds, data))
    except BadAudio as exc:
        raise _bad_sound(exc.message) from None


async def _duration_ms(data: bytes) -> int:
    """Return how long a sound lasts, 0 for what is none: the client gets it as it came."""
    try:
        return round(1000 * await asyncio.to_thread(measure_seconds, data))
    except BadAudio:
        return 0


def _bad_sound(why: str) -> BadRequest:
    return BadRequest(f"The sound cannot be read: {why}.", code="invalid_file", param="inputs")


def _headers(task: Task, asked: NativeRequest) -> dict[str, str]:
    accept = _PICTURES if task is Task.IMAGE else {}
    if asked.accept:
        accept = {"accept": asked.accept}
    return accept if asked.is_json else {"content-type": asked.content_type, **accept}


def _is_repeatable(task: Task, asked: NativeRequest) -> bool:
    """Tell whether it is seeded, or nothing is drawn: pictures are, and what `do_sample` says."""
    given = _flat(asked.parameters)
    draws = task is Task.IMAGE or given.get("do_sample") or given.get("temperature")
    return "seed" in given or not draws


def _flat(parameters: Json) -> Json:
    """Return parameters together with those that some pipelines take one level deeper."""
    deeper = [parameters.get(name) for name in ("generation_parameters", "generate_kwargs")]
    found = dict(parameters)
    for each in deeper:
        found |= each if isinstance(each, dict) else {}
    return found


def _texts_in(value: Any) -> Iterator[str]:
    """Yield all texts in `inputs`, which pipelines may nest as they like."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                yield text
            case list() as items:
                waiting += items
            case dict() as members:
                waiting += members.values()
