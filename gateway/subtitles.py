"""Transcripts in OpenAI's forms: text, SRT, WebVTT and verbose JSON, from native `chunks`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from adapters.base import Json


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of speech, a segment or a word; times in seconds from the beginning."""

    start: float
    end: float
    text: str


def parse_chunks(
    chunks: Iterable[Mapping[str, Any]], *, duration_seconds: float
) -> tuple[Span, ...]:
    """Return native `chunks` (`{"text", "timestamp": [start, end]}`) in order, the empty left out.

    Models leave the end of the last chunk open (null), and some chunks without times at all:
    those begin where the one before ended, and end at `duration_seconds`.
    """
    spans: list[Span] = []
    for chunk in chunks:
        start, end = (*(chunk.get("timestamp") or ()), None, None)[:2]
        earliest = spans[-1].start if spans else 0.0
        begins = max(earliest, spans[-1].end if start is None and spans else start or 0.0)
        ends = max(begins, duration_seconds if end is None else end)
        if text := str(chunk.get("text") or "").strip():
            spans.append(Span(begins, ends, text))
    return tuple(spans)


def render_srt(segments: Sequence[Span]) -> str:
    """Return SubRip: numbered cues, times with a comma."""
    return "".join(
        f"{number}\n{_time(span.start, ',')} --> {_time(span.end, ',')}\n{_line(span.text)}\n\n"
        for number, span in enumerate(segments, 1)
    )


def render_vtt(segments: Sequence[Span]) -> str:
    """Return WebVTT: cues without numbers, times with a point, `&` and `<` escaped (§4.2.2)."""
    cues = (
        f"{_time(span.start, '.')} --> {_time(span.end, '.')}\n"
        f"{_line(span.text).replace('&', '&amp;').replace('<', '&lt;')}\n\n"
        for span in segments
    )
    return "WEBVTT\n\n" + "".join(cues)


def render_verbose(
    text: str,
    segments: Sequence[Span] | None,
    words: Sequence[Span] | None,
    *,
    duration_seconds: float,
    language: str = "english",
    task: str = "transcribe",
    temperature: float = 0.0,
) -> Json:
    """Return OpenAI's `verbose_json`; `segments` and `words` are left out where None.

    What the native API does not tell of a segment (tokens, probabilities) is empty or 0.
    """
    answer: Json = {
        "task": task,
        "language": language,
        "duration": round(duration_seconds, 3),
        "text": text,
    }
    if segments is not None:
        answer["segments"] = [
            _segment(number, span, temperature) for number, span in enumerate(segments)
        ]
    if words is not None:
        answer["words"] = [
            {"word": span.text, "start": span.start, "end": span.end} for span in words
        ]
    return answer


def _segment(number: int, span: Span, temperature: float) -> Json:
    return {
        "id": number,
        "seek": 0,
        "start": span.start,
        "end": span.end,
        "text": span.text,
        "tokens": [],
        "temperature": temperature,
        "avg_logprob": 0.0,
        "compression_ratio": 0.0,
        "no_speech_prob": 0.0,
    }


def _time(seconds: float, point: str) -> str:
    milliseconds = round(seconds * 1000)
    minutes, rest = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{rest // 1000:02}{point}{rest % 1000:03}"


def _line(text: str) -> str:
    """Return `text` on one line: a blank line would end its cue, and an arrow begin another."""
    return re.sub(r"\s+", " ", text).replace("-->", "->")
