"""Speech parameters and answers, as far as all speech dialects read them alike."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from adapters import refusals
from adapters.base import Json, Media
from adapters.errors import Interrupted

DEFAULTS: Mapping[str, object] = {"speed": 1, "instructions": ""}
"""Values that ask for what happens anyway."""

_ERROR = re.compile(rb'\s*\{\s*"error"')


def parse_answer(body: bytes, headers: Mapping[str, str]) -> Json:
    """Return `{"media": Media}`, the sound as it came; JSON is looked at only for an error.

    Raises UpstreamError for an error under status 200, and for nothing at all.
    """
    if not body:
        raise Interrupted("The upstream sent no sound.")
    if _ERROR.match(body):
        raise refusals.from_object(_parse(body))
    return {"media": Media(body, headers.get("content-type", ""))}


def _parse(body: bytes) -> Json:
    try:
        return msgspec.json.decode(body, type=Json)
    except msgspec.DecodeError as exc:
        raise Interrupted("The upstream sent JSON that cannot be read.") from exc
