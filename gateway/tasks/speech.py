"""Speech: a text spoken piece by piece, and one file of the wanted format made of the pieces."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import ParamSpec, TypeVar

from adapters.base import Call, Media, Request
from adapters.errors import Interrupted
from gateway.amounts import Usage
from gateway.audio import BadAudio
from gateway.encoder import CONTENT_TYPES
from gateway.errors import BadRequest
from gateway.exchange import Body, Exchange, Frames, Route
from gateway.look_ahead import LookAhead
from gateway.recording import Recording
from gateway.sentences import pack_sentences, split_sentences
from gateway.speech_stream import SpeechEvents, SpeechStream
from gateway.tapes import Piece, Recipe, Tape
from gateway.tasks.fields_without_effect import WITHOUT_EFFECT
from gateway.threads import Threads
from gateway.upstreams import sending
from gateway.upstreams.errand import Errand

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
        errand = exchange.errand(route, request)
        plan = errand.translator.plan(request)
        exchange.ignored = plan.ignored
        file = _File(
            errand=errand,
            calls=plan.calls,
            threads=self._threads,
        )
        estimate = Usage(characters=len(exchange.body["input"]))
        return SpeechJob(exchange=exchange, file=file, estimate=estimate)


@dataclass(slots=True)
class _Progress:
    """How much of a file's text has been spoken so far."""

    characters: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    """A whole file. For each call it yields two pieces, both `[bytes, characters, audio_ms]`.

    The first says that the call's sound came and is empty, the second is what could be encoded
    with it, maybe nothing. The counts are of the file so far.
    """

    errand: Errand
    calls: tuple[Call, ...]
    threads: Threads

    @property
    def form(self) -> str:
        """Its format."""
        form: str = self.errand.request.body.get("response_format", "mp3")
        return form

    def recipe(self) -> Recipe:
        """Return what it depends on."""
        errand = self.errand
        request = errand.request
        body = {name: value for name, value in request.body.items() if name not in WITHOUT_EFFECT}
        plan = errand.translator.plan(replace(request, body=body))
        return Recipe(calls=plan.calls, form={"response_format": self.form})

    async def make(self) -> AsyncGenerator[Piece]:
        """Have it spoken, and encode it. Raises UpstreamError."""
        progress, recording = _Progress(), Recording(self.form, pieces=len(self.calls))
        jobs = (partial(self._fetch, call, progress) for call in self.calls)
        async with aclosing(LookAhead(jobs, depth=_CALLS_AT_ONCE)) as sounds:
            async for media in sounds:
                yield Piece([b"", progress.characters, recording.duration_ms])
                data = await self._off_loop(recording.add, media)
                content = [data, progress.characters, recording.duration_ms]
                yield Piece(content, is_last=recording.is_whole)

    def is_sound(self, pieces: Sequence[Piece]) -> bool:
        """Tell whether there is something to be heard."""
        return bool(pieces) and pieces[-1].is_last and any(piece.content[0] for piece in pieces)

    async def _fetch(self, call: Call, progress: _Progress) -> Media:
        """Return one call's sound, and count the characters that it was made of."""
        request = self.errand.request
        [answer] = await sending.fetch(self.errand, [call])
        prompts = request.prompts
        progress.characters += len(prompts[call.index] if prompts else request.body["input"])
        media: Media = answer["media"]
        return media

    async def _off_loop(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns, made in a thread. Raises UpstreamError for bad sound."""
        try:
            return await self.threads.run(work, *args, **kwargs)
        except BadAudio as exc:
            raise Interrupted(f"The upstream's sound is of no use: {exc.message}.") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechJob:
    """What one exchange gets of its file."""

    exchange: Exchange
    file: _File
    estimate: Usage
    is_repeatable: bool = True

    @property
    def parts(self) -> Sequence[_File]:
        """The only one."""
        return (self.file,)

    async def answer(self, tapes: Sequence[Tape]) -> Body | Frames:
        """Return the answer once its first piece is there; what is short, as a whole.

        Raises UpstreamError, GatewayError.
        """
        [tape] = tapes
        try:
            return await self._answer(tape)
        except BaseException:
            await tape.aclose()
            raise

    async def _answer(self, tape: Tape) -> Body | Frames:
        exchange, form = self.exchange, self.file.form
        is_events = exchange.body.get("stream_format") == "sse"
        sound = self._sound(tape.pieces())
        if len(self.file.calls) == 1 and not is_events:
            [data] = [part async for part in sound]
            await tape.aclose()
            return Body(data, CONTENT_TYPES[form])
        first = await anext(sound)
        stream = SpeechStream(form, first=first, parts=sound, close=tape.aclose)
        return SpeechEvents(stream, exchange.usage) if is_events else stream

    async def _sound(self, pieces: AsyncIterator[Piece]) -> AsyncIterator[bytes]:
        """Yield the file, a part for each call, and count it. Raises UpstreamError, GatewayError.

        Encoding is no time spent waiting for the upstream.
        """
        while (came := await self._next(pieces)) is not None:
            self._count(came)
            encoded = await anext(pieces)
            self._count(encoded)
            yield encoded.content[0]

    async def _next(self, pieces: AsyncIterator[Piece]) -> Piece | None:
        with self.exchange.waiting():
            return await anext(pieces, None)

    def _count(self, piece: Piece) -> None:
        _, self.exchange.usage.characters, self.exchange.usage.audio_ms = piece.content


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
        use_cache=exchange.use_upstream_cache,
    )


def _pieces(text: str) -> tuple[str, ...]:
    """Return `text` in pieces: the first sentence by itself, as it is waited for, then several.

    Models may choke on a piece that says nothing, so a lone `...` is left out.
    """
    first, *rest = split_sentences(text, _LONGEST_PIECE)
    pieces = [first, *pack_sentences(rest, _LONGEST_PIECE)]
    return tuple(piece for piece in pieces if any(map(str.isalnum, piece))) or (text,)
