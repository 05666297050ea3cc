"""Transcriptions and translations: a sound made fit for its upstream, a text in the wanted form."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace

import msgspec

from adapters.base import Call, Json, Media, Request
from adapters.errors import Rejected
from gateway.amounts import Usage
from gateway.audio import CONTENT_TYPES, BadAudio, measure_seconds, resample, sniff
from gateway.errors import BadRequest
from gateway.exchange import Body, Exchange, Route
from gateway.sentences import split_sentences
from gateway.subtitles import Span, parse_chunks, render_srt, render_verbose, render_vtt
from gateway.tapes import Piece, Recipe, Tape, collect
from gateway.tasks.fields_without_effect import WITHOUT_EFFECT
from gateway.threads import Threads
from gateway.upstreams import sending
from gateway.upstreams.errand import Errand

_TAKEN = frozenset({"wav", "flac", "mp3"})  # what every server reads; the rest becomes FLAC
_RATE = 16_000  # Hz, mono: what speech models listen to
_LONGEST_SECONDS = 7200.0
_DECODED_AT_ONCE = 2  # each keeps a core busy
_PAUSE_SECONDS = 1.0  # that long a silence ends a segment
_LONGEST_DELTA = 200  # characters
_PLAIN = "text/plain; charset=utf-8"
_EVENTS = "text/event-stream; charset=utf-8"


class TranscriptionTask:
    """Answers an exchange with what was said."""

    def __init__(self) -> None:
        self._decoding = Threads(_DECODED_AT_ONCE)

    async def prepare(self, exchange: Exchange, route: Route) -> TranscriptionJob:
        """Return the call with its sound. Raises GatewayError, DialectError."""
        _check_stream(exchange.body)
        media, seconds = await self._fitted(exchange)
        exchange.media = media  # what is sent is enough to hold
        request = Request(
            task=exchange.task,
            model=route.target.model,
            body=exchange.body,
            media=media,
            use_cache=exchange.use_upstream_cache,
        )
        errand = exchange.errand(route, request)
        plan = errand.translator.plan(request)
        exchange.ignored = plan.ignored
        is_drawn = bool(exchange.body.get("temperature"))
        is_seeded = "seed" in exchange.body and "seed" not in plan.ignored
        return TranscriptionJob(
            exchange=exchange,
            heard=_Heard(errand, plan.calls),
            seconds=seconds,
            is_repeatable=is_seeded or not is_drawn,
            estimate=Usage(audio_ms=round(seconds * 1000)),
        )

    async def _fitted(self, exchange: Exchange) -> tuple[Media, float]:
        assert exchange.media is not None  # noqa: S101 (the route reads one)
        try:
            return await self._decoding.run(_fit, exchange.media.data)
        except BadAudio as exc:
            raise BadRequest(
                f"Invalid 'file': {exc.message}.", code="invalid_file", param="file"
            ) from None


@dataclass(frozen=True, slots=True)
class _Heard:
    """What was said, in the upstream's words: its translator's answer, as JSON.

    JSON, as its integers may be longer than msgpack's.
    """

    errand: Errand
    calls: tuple[Call, ...]

    def recipe(self) -> Recipe:
        """Return the call without its sound, and the sound."""
        errand = self.errand
        request, media = errand.request, errand.request.media
        assert media is not None  # noqa: S101 (there is one in each request)
        body = {name: value for name, value in request.body.items() if name not in WITHOUT_EFFECT}
        silent = errand.translator.plan(replace(request, body=body, media=replace(media, data=b"")))
        return Recipe(calls=silent.calls, media=media.data)

    async def make(self) -> AsyncGenerator[Piece]:
        """Have the sound transcribed. Raises UpstreamError."""
        [answer] = await sending.fetch(self.errand, self.calls)
        yield Piece(msgspec.json.encode(answer), is_last=True)

    def is_sound(self, pieces: Sequence[Piece]) -> bool:
        """Tell whether it is there; a silence has no text."""
        return bool(pieces) and pieces[-1].is_last


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionJob:
    """What one exchange gets of what was `heard`. The sound lasts `seconds`."""

    exchange: Exchange
    heard: _Heard
    seconds: float
    is_repeatable: bool
    estimate: Usage

    @property
    def parts(self) -> Sequence[_Heard]:
        """The only one."""
        return (self.heard,)

    async def answer(self, tapes: Sequence[Tape]) -> Body:
        """Return the answer. Raises UpstreamError, GatewayError."""
        exchange, [tape] = self.exchange, tapes
        with exchange.waiting():
            try:
                [piece] = await collect(tape)
            except Rejected as exc:
                exc.param = exc.param or "file"
                raise
        exchange.usage.audio_ms = self.estimate.audio_ms
        transcript = _Transcript.of(
            msgspec.json.decode(piece.content),
            self.seconds,
            english=self.heard.errand.request.model.endswith(".en"),
        )
        return transcript.events() if exchange.is_stream else transcript.render(exchange.body)


def _fit(data: bytes) -> tuple[Media, float]:
    """Return a sound as upstreams take it, and how many seconds it lasts. Raises BadAudio."""
    form = sniff(data)
    if form is None or form == "json":
        raise BadAudio("the audio is in no known format")
    if form not in _TAKEN:
        form = "flac"
        data = resample(data, form, rate=_RATE, channels=1, limit_seconds=_LONGEST_SECONDS)
    return Media(data, CONTENT_TYPES[form]), measure_seconds(data)


def _check_stream(body: Json) -> None:
    form = body.get("response_format", "json")
    if body.get("stream") and form not in ("json", "text"):
        raise BadRequest(
            f"'stream' sends plain text: 'response_format' {form!r} cannot be streamed.",
            code="invalid_value",
            param="response_format",
        )


@dataclass(frozen=True, slots=True)
class _Transcript:
    """What was said. `whole`: the answer of an upstream that speaks OpenAI."""

    text: str
    seconds: float
    segments: tuple[Span, ...]
    words: tuple[Span, ...]
    whole: Json
    language: str | None

    @classmethod
    def of(cls, answer: Json, seconds: float, *, english: bool) -> _Transcript:
        """Return a translator's `answer` with every span in its place."""
        words = parse_chunks(answer.get("words", ()), duration_seconds=seconds)
        segments = parse_chunks(answer.get("segments", ()), duration_seconds=seconds)
        text, whole = answer["text"], answer.get("whole", {})
        if not segments:
            segments = _segments_of(words) or ((Span(0.0, seconds, text),) if text else ())
        language = whole.get("language") or ("english" if english else None)
        return cls(text, seconds, segments, words, whole, language)

    @property
    def usage(self) -> Json:
        """OpenAI's usage: of time, in whole seconds."""
        return {"type": "duration", "seconds": math.ceil(self.seconds)}

    def render(self, body: Json) -> Body:
        """Return the answer in the `response_format` of `body`."""
        match body.get("response_format", "json"):
            case "text":
                return Body(f"{self.text}\n".encode(), _PLAIN)
            case "srt":
                return Body(render_srt(self.segments).encode(), _PLAIN)
            case "vtt":
                return Body(render_vtt(self.segments).encode(), _PLAIN)
            case "verbose_json":
                return Body(msgspec.json.encode(self._verbose(body)))
            case _:
                answer = {"text": self.text, "usage": self.usage}
                return Body(msgspec.json.encode(answer | self.whole))

    def events(self) -> Body:
        """Return the events of a stream: the text by sentences, then all of it."""
        deltas = split_sentences(self.text, _LONGEST_DELTA)
        events: list[Json] = [{"type": "transcript.text.delta", "delta": delta} for delta in deltas]
        events.append({"type": "transcript.text.done", "text": self.text, "usage": self.usage})
        lines = (b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events)
        return Body(b"".join(lines), _EVENTS)

    def _verbose(self, body: Json) -> Json:
        granularities = body.get("timestamp_granularities") or ["segment"]
        translated = body["task"] == "translate"
        language = "english" if translated else self.language or body.get("language", "unknown")
        made = render_verbose(
            self.text,
            self.segments if "segment" in granularities else None,
            self.words if "word" in granularities else None,
            duration_seconds=self.seconds,
            language=language,
            task=body["task"],
            temperature=body.get("temperature", 0.0),
        )
        return made | {"usage": self.usage} | self.whole


def _segments_of(words: tuple[Span, ...]) -> tuple[Span, ...]:
    """Return words as segments, which end with a sentence or before a pause."""
    segments: list[list[Span]] = []
    for word in words:
        last = segments[-1][-1] if segments else None
        if last and not _ends_segment(last, word):
            segments[-1].append(word)
        else:
            segments.append([word])
    return tuple(
        Span(run[0].start, run[-1].end, " ".join(word.text for word in run)) for run in segments
    )


def _ends_segment(word: Span, following: Span) -> bool:
    return word.text.endswith((".", "!", "?")) or following.start - word.end >= _PAUSE_SECONDS
