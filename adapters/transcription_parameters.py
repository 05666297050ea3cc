"""OpenAI's transcription parameters, as far as all transcription dialects read them alike."""

from __future__ import annotations

from adapters.base import Json, Media, Request

_TIMED = frozenset({"verbose_json", "srt", "vtt"})


def media_of(request: Request) -> Media:
    """Return the sound, which a transcription's request always holds."""
    assert request.media is not None  # noqa: S101 (see above)
    return request.media


def wants_times(body: Json) -> bool:
    """Tell whether the answer says when what was spoken."""
    return body.get("response_format") in _TIMED


def wants_words(body: Json) -> bool:
    """Tell whether the answer says so of each word."""
    is_verbose = body.get("response_format") == "verbose_json"
    return is_verbose and "word" in body.get("timestamp_granularities", ())
