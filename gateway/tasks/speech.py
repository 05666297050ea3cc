"""Speech: a text spoken piece by piece, and one file of the wanted format made of the pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from adapters.base import Call, Media, Request
from adapters.errors import Interrupted
from gateway import sending
from gateway.audio import BadAudio
from gateway.encoder import CONTENT_TYPES
from gateway.errors import BadRequest
from gateway.exchange import Body, Exchange, Frames, Route
from gateway.look_ahead import LookAhead
from gateway.recording import Recording, convert
from gateway.sentences import pack_sentences, split_sentences
from gateway.speech_stream import SpeechEvents, SpeechStream
from gateway.threads import Threads

_LONGEST_PIECE = 300  # characters; models are trained on a sentence or a few
_CALLS_AT_ONCE = 2
_THREADS = 2  # an encoder keeps one core busy

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Job:
    """One exchange's speech: the pieces that are being spoken, and the format they are to have."""

    exchange: Exchange
    pieces: LookAhead[Media]
    form: str
    is_single: bool


class SpeechTask:
    """Answers an exchange with sound."""

    def __init__(self) -> None:
        self._threads = Threads(_THREADS)

    async def __call__(self, exchange: Exchange, route: Route) -> Body | Frames:
        """Return the answer once its first piece is there; what is short, as a whole.

        Raises GatewayError, UpstreamError, DialectError.
        """
        request = _request(exchange, route)
        plan = route.target.upstream.dialect[exchange.task].plan(request)
        exchange.ignored = plan.ignored
        pieces = LookAhead(
            (partial(_fetch, exchange, route, request, call) for call in plan.calls),
            depth=_CALLS_AT_ONCE,
        )
        form = exchange.body.get("response_format", "mp3")
        job = _Job(exchange, pieces, form, is_single=len(plan.calls) == 1)
        try:
            return await self._answer(job)
        except BaseException:
            await pieces.aclose()
            raise

    async def _answer(self, job: _Job) -> Body | Frames:
        is_events = job.exchange.body.get("stream_format") == "sse"
        if job.is_single and not is_events:
            return Body(await self._whole(job), CONTENT_TYPES[job.form])
        parts = self._parts(job)
        first = await anext(parts)
        sound = SpeechStream(job.form, first=first, parts=parts, close=job.pieces.aclose)
        return SpeechEvents(sound, job.exchange.usage) if is_events else sound

    async def _whole(self, job: _Job) -> bytes:
        """Return the file of the only piece. Raises UpstreamError."""
        with job.exchange.waiting():
            media = await anext(job.pieces)
        data, seconds = await self._off_loop(convert, media, job.form)
        job.exchange.usage["audio_seconds"] = seconds
        return data

    async def _parts(self, job: _Job) -> AsyncIterator[bytes]:
        """Yield the file of all pieces, a part for each. Raises UpstreamError."""
        if job.is_single:
            yield await self._whole(job)
            return
        recording = Recording(job.form)
        while media := await _next_piece(job):
            part = await self._off_loop(recording.add, media)
            job.exchange.usage["audio_seconds"] = recording.duration_seconds
            yield part
        yield await self._off_loop(recording.finish)

    async def _off_loop(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns, made in a thread. Raises UpstreamError for bad sound."""
        try:
            return await self._threads.run(work, *args, **kwargs)
        except BadAudio as exc:
            raise Interrupted(f"The upstream's sound is of no use: {exc.message}.") from exc


async def _next_piece(job: _Job) -> Media | None:
    with job.exchange.waiting():
        return await anext(job.pieces, None)


async def _fetch(exchange: Exchange, route: Route, request: Request, call: Call) -> Media:
    """Return one call's sound, and count the characters that it was made of."""
    [answer] = await sending.fetch(route.target, request, [call], wait=exchange.wait_for_model)
    text = request.prompts[call.index] if request.prompts else exchange.body["input"]
    exchange.usage["characters"] = exchange.usage.get("characters", 0) + len(text)
    media: Media = answer["media"]
    return media


def _request(exchange: Exchange, route: Route) -> Request:
    """Return what a dialect is asked. Raises BadRequest for a voice that there is not."""
    body, voices = exchange.body, route.model.voices
    splits = route.target.upstream.dialect[exchange.task].renders
    voice = voices.resolve(body["voice"], is_open=not splits)
    named = {} if voice is None else {"voice": voice}
    if not body["input"].strip():
        raise BadRequest(
            "Invalid 'input': expected something to say.", code="empty_string", param="input"
        )
    return Request(
        task=exchange.task,
        model=route.target.model,
        body={name: value for name, value in body.items() if name != "voice"} | named,
        prompts=_pieces(body["input"]) if splits else (),
        parameter_names=voices.parameter_names,
    )


def _pieces(text: str) -> tuple[str, ...]:
    """Return `text` in pieces: the first sentence by itself, as it is waited for, then several.

    Models may choke on a piece that says nothing, so a lone `...` is left out.
    """
    first, *rest = split_sentences(text, _LONGEST_PIECE)
    pieces = [first, *pack_sentences(rest, _LONGEST_PIECE)]
    return tuple(piece for piece in pieces if any(map(str.isalnum, piece))) or (text,)
