"""Speech: a text spoken piece by piece, and one file of the wanted format made of the pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import ParamSpec, TypeVar

from adapters.base import Call, Media, Request
from adapters.errors import Interrupted
from gateway import sending
from gateway.amounts import Usage
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


class SpeechTask:
    """Answers an exchange with sound."""

    def __init__(self) -> None:
        self._threads = Threads(_THREADS)

    async def prepare(self, exchange: Exchange, route: Route) -> SpeechJob:
        """Return the pieces to be spoken. Raises GatewayError, DialectError."""
        request = _request(exchange, route)
        plan = route.target.upstream.dialect[exchange.task].plan(request)
        exchange.ignored = plan.ignored
        return SpeechJob(
            exchange=exchange,
            route=route,
            request=request,
            calls=plan.calls,
            threads=self._threads,
            estimate=Usage(characters=len(exchange.body["input"])),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechJob:
    """The calls of one exchange, one for each piece of its text."""

    exchange: Exchange
    route: Route
    request: Request
    calls: tuple[Call, ...]
    threads: Threads
    estimate: Usage

    async def send(self) -> Body | Frames:
        """Return the answer once its first piece is there; what is short, as a whole.

        Raises UpstreamError.
        """
        pieces = LookAhead(
            (partial(self._fetch, call) for call in self.calls), depth=_CALLS_AT_ONCE
        )
        try:
            return await self._answer(pieces)
        except BaseException:
            await pieces.aclose()
            raise

    async def _answer(self, pieces: LookAhead[Media]) -> Body | Frames:
        is_events = self.exchange.body.get("stream_format") == "sse"
        if len(self.calls) == 1 and not is_events:
            return Body(await self._whole(pieces), CONTENT_TYPES[self._form])
        parts = self._parts(pieces)
        first = await anext(parts)
        sound = SpeechStream(self._form, first=first, parts=parts, close=pieces.aclose)
        return SpeechEvents(sound, self.exchange.usage) if is_events else sound

    async def _whole(self, pieces: LookAhead[Media]) -> bytes:
        """Return the file of the only piece. Raises UpstreamError."""
        with self.exchange.waiting():
            media = await anext(pieces)
        data, seconds = await self._off_loop(convert, media, self._form)
        self._note_duration(seconds)
        return data

    async def _parts(self, pieces: LookAhead[Media]) -> AsyncIterator[bytes]:
        """Yield the file of all pieces, a part for each. Raises UpstreamError."""
        if len(self.calls) == 1:
            yield await self._whole(pieces)
            return
        recording = Recording(self._form)
        while media := await self._next(pieces):
            part = await self._off_loop(recording.add, media)
            self._note_duration(recording.duration_seconds)
            yield part
        yield await self._off_loop(recording.finish)

    async def _next(self, pieces: LookAhead[Media]) -> Media | None:
        with self.exchange.waiting():
            return await anext(pieces, None)

    async def _fetch(self, call: Call) -> Media:
        """Return one call's sound, and count the characters that it was made of."""
        exchange, prompts = self.exchange, self.request.prompts
        [answer] = await sending.fetch(
            self.route.target, self.request, [call], wait=exchange.wait_for_model
        )
        exchange.usage.characters += len(prompts[call.index] if prompts else exchange.body["input"])
        media: Media = answer["media"]
        return media

    async def _off_loop(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns, made in a thread. Raises UpstreamError for bad sound."""
        try:
            return await self.threads.run(work, *args, **kwargs)
        except BadAudio as exc:
            raise Interrupted(f"The upstream's sound is of no use: {exc.message}.") from exc

    def _note_duration(self, seconds: float) -> None:
        self.exchange.usage.audio_ms = round(seconds * 1000)

    @property
    def _form(self) -> str:
        form: str = self.exchange.body.get("response_format", "mp3")
        return form


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
