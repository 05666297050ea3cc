"""Generated text as the native API has it, from servers that speak it."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from adapters.base import Call, Json, Request
from adapters.errors import Interrupted, UpstreamError
from adapters.generation import Details, parse_answer, parse_event
from adapters.native import told_count
from adapters.native_calls import WITH_OPERATIONS, Operation, native_path
from gateway.amounts import Usage
from gateway.counting import Count
from gateway.errors import GatewayError, from_upstream
from gateway.exchange import Body, Exchange, Route
from gateway.native.errors import native_event
from gateway.native.part import NativePart
from gateway.native.request import NativeRequest, invalid
from gateway.prompt_size import PromptSize
from gateway.tapes import Piece, Tape, collect
from gateway.upstreams.target import Target
from gateway.usage import UsageMeter

_IMAGE = re.compile(r"!\[\]\(data:[^)]*\)")
# text-generation-inference fetches what any other `![](…)` names, wherever it leads (see
# `adapters.prompt_images`).
_LINK = re.compile(r"!\[\]\((?!data:)")
_BROKEN_LINK = "!\u200b[]("
_BOUNDS = frozenset(("max_new_tokens", "max_length"))  # of TGI, and of transformers' pipelines
_EVENTS = "text/event-stream; charset=utf-8"


async def prepare_text(
    exchange: Exchange, route: Route, asked: NativeRequest, count: Count | None
) -> NativeTextJob:
    """Return the call that passes the request on. Raises BadRequest."""
    is_repeatable = "seed" in asked.parameters or not asked.draws
    request = _request(exchange, route, asked, is_repeatable=is_repeatable)
    prompts = PromptSize(request, count=count)
    most = _count(asked, "max_new_tokens", route.model.max_tokens_default)
    return NativeTextJob(
        exchange=exchange,
        part=NativePart(
            errand=exchange.errand(route, request),
            call=_call(route.target, asked, most=most),
            is_path_given=asked.pipeline is not None,
            is_text=True,
        ),
        prompt=asked.text,
        is_object=asked.operation is Operation.GENERATE,
        is_repeatable=is_repeatable,
        meter=UsageMeter(exchange.usage, prompts, choices=1, count=count),
        estimate=Usage(
            input_tokens=await prompts.at_most(exactly=exchange.counts_tokens),
            output_tokens=most * _count(asked, "best_of", 1),
        ),
    )


def _request(
    exchange: Exchange, route: Route, asked: NativeRequest, *, is_repeatable: bool
) -> Request:
    """Return what is to be metered: the prompt, and its images apart from it.

    The API's own habit is to give a drawn answer again to whoever asks the same. Here, and at the
    server, only seeded and greedy answers are, unless [cache] `unseeded` says otherwise.
    """
    spoken, images = _IMAGE.subn("", asked.text)
    return Request(
        task=exchange.task,
        model=route.target.model,
        body={},
        prompts=(spoken,),
        images=("",) * images,
        stream=exchange.is_stream,
        use_cache=exchange.use_upstream_cache and is_repeatable,
    )


def _call(target: Target, asked: NativeRequest, *, most: int) -> Call:
    dialect = target.upstream.dialect_name
    path = native_path(dialect, target.model, asked.operation, asked.pipeline)
    changes = _changes(asked, most=most, has_operations=dialect in WITH_OPERATIONS)
    return Call(path=path, body=asked.payload(changes))


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeTextJob:
    """The text of one exchange. `is_object`: the client gets no array of it."""

    exchange: Exchange
    part: NativePart
    prompt: str
    is_object: bool
    is_repeatable: bool
    meter: UsageMeter
    estimate: Usage

    @property
    def parts(self) -> Sequence[NativePart]:
        """The only one."""
        return (self.part,)

    async def answer(self, tapes: Sequence[Tape]) -> Body | NativeStream:
        """Return the answer, a stream once its first event is there. Raises UpstreamError."""
        [tape] = tapes
        return await (self._stream(tape) if self.exchange.is_stream else self._whole(tape))

    async def _whole(self, tape: Tape) -> Body:
        try:
            with self.exchange.waiting():
                [piece] = await collect(tape)
            data, kind, headers = piece.content
            self._hear(data, dict(headers))
        finally:
            await self.meter.settle()
        tell(self.exchange, headers)
        return Body(_shaped(data, is_object=self.is_object), kind)

    async def _stream(self, tape: Tape) -> NativeStream:
        stream = NativeStream(self, tape)
        try:
            with self.exchange.waiting():
                await stream.open()
        except BaseException:
            await stream.aclose()
            raise
        return stream

    def _hear(self, data: bytes, headers: Json) -> None:
        """Count a whole answer."""
        answer = parse_answer(data)
        text = answer.generated_text.removeprefix(self.prompt)
        usage = self.note_end(answer.details)
        if (told := told_count(headers, "x-prompt-tokens")) is not None:
            usage["prompt_tokens"] = told
        self.meter.note(self.part.call, [{"choices": [{"text": text}]}, {"usage": usage}])

    def note_end(self, details: Details | None) -> Json:
        """Take in why the text ended; return OpenAI's `usage` of what is told."""
        self.exchange.finish = details.reason if details else "stop"
        return details.usage() if details else {}


class NativeStream:
    """The events of one text as its server has made them. Iterating never raises.

    All are framed alike, `data: …`: not all clients' parsers take another form. `is_over` turns
    true with the last; there is no `[DONE]`. Whoever opened it closes it.
    """

    content_type = _EVENTS

    def __init__(self, job: NativeTextJob, tape: Tape) -> None:
        self.is_over = False
        self.error: GatewayError | None = None
        self._job = job
        self._tape = tape
        self._pieces = tape.pieces()
        self._first: Piece | None = None
        self._tokens = 0

    async def open(self) -> None:
        """Wait for the first event. Raises UpstreamError, GatewayError."""
        self._first = await anext(self._pieces)
        _, headers = self._first.content
        tell(self._job.exchange, headers)

    async def frames(self) -> AsyncIterator[bytes]:
        """Yield the events until the text is whole or has failed."""
        piece, tail = self._first, b""
        try:
            while piece is not None:
                tail = self._frames(piece)
                if piece.is_last:
                    break
                yield tail
                tail, piece = b"", await anext(self._pieces, None)
            else:
                raise Interrupted("The answer ended before it was whole.")
        except (UpstreamError, GatewayError) as exc:
            self.error = exc if isinstance(exc, GatewayError) else from_upstream(exc)
            tail = native_event(self.error)
        await self._job.meter.settle()
        self.is_over = True
        yield tail

    async def aclose(self) -> None:
        """Want no more of it, and settle what came until then."""
        try:
            await self._tape.aclose()
        finally:
            if not self.is_over:
                await self._job.meter.settle()

    def _frames(self, piece: Piece) -> bytes:
        """Return the events of a piece, once they are counted."""
        payloads, _ = piece.content
        said: list[Json] = []
        for payload in payloads:
            event = parse_event(payload)
            self._tokens += event.token is not None
            if event.is_last:
                said.append({"usage": self._job.note_end(event.details)})
        self._job.meter.note(self._job.part.call, said, tokens=self._tokens)
        return b"".join(map(_frame, payloads))


def tell(exchange: Exchange, headers: Iterable[tuple[str, str]]) -> None:
    """Let the client have the upstream's headers, those of the run that was kept on a hit."""
    told: dict[str, str] = dict(headers)
    if exchange.found and exchange.found.status == "hit":
        told["x-compute-type"] = "cache"  # how the hosted service marked its own
    exchange.told = tuple(told.items())


def _frame(payload: bytes) -> bytes:
    return b"data: %b\n\n" % payload.replace(b"\n", b"\ndata: ")


def _shaped(data: bytes, *, is_object: bool) -> bytes:
    """Return a text's object by itself, or in an array, however it came."""
    is_array = data.lstrip()[:1] == b"["
    if is_array is not is_object:
        return data
    if not is_array:
        return b"[%b]" % data
    [text, *_] = msgspec.json.decode(data, type=list[msgspec.Raw])
    return bytes(text)


def _changes(asked: NativeRequest, *, most: int, has_operations: bool) -> dict[str, Any]:
    """Return what must be said otherwise: links in the prompt, how much may be made at `most`, and
    what the path says elsewhere.

    `has_operations`: the server has paths for them. To others `/generate` is told by its defaults.
    """
    changes: dict[str, Any] = {}
    if _LINK.search(asked.text):
        changes["inputs"] = _LINK.sub(_BROKEN_LINK, asked.text)
    # Without any parameters the server draws, with some only if they say so.
    parameters = given = asked.parameters or {"do_sample": True}
    if not _BOUNDS.intersection(given):  # else it would fill its context
        parameters = parameters | {"max_new_tokens": most}
    if asked.operation is not Operation.PREDICT and not has_operations:
        changes["stream"] = True if asked.asks_stream else None
        parameters = {"return_full_text": False} | parameters
    if parameters is not given:
        changes["parameters"] = parameters
    return changes


def _count(asked: NativeRequest, name: str, default: int) -> int:
    """Return a parameter that is a number of things. Raises BadRequest if it is none."""
    value = asked.parameters.get(name, default)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31:
        return value
    raise invalid(f"`{name}` must be strictly positive", param=f"parameters.{name}")
