"""Speech by servers that already speak OpenAI: `POST {base}/audio/speech`, the whole text at once.

They differ in what they take. OpenAI's own and most of the open servers take all of it;
Together's (docs.together.ai/reference/audio-speech) makes MP3 and WAV only and refuses the rest.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from adapters.base import Call, Json, Plan, Request
from adapters.leaving_out import names_left_out
from adapters.sound import DEFAULTS, parse_answer

_FALLBACK_FORMAT = "wav"
# How the answer is to be streamed is the gateway's affair: it asks for the sound itself.
_OWN = frozenset({"stream_format"})


class OpenAISpeech:
    """`formats` are those that the server makes, None for all; `unknown`, fields it has not."""

    renders = False

    def __init__(
        self, *, formats: frozenset[str] | None = None, unknown: frozenset[str] = frozenset()
    ) -> None:
        self._formats = formats
        self._unknown = unknown

    def plan(self, request: Request) -> Plan:
        """Return the one call, with the client's own fields, unknown ones included."""
        body = {name: value for name, value in request.body.items() if name not in _OWN}
        taken = {name: value for name, value in body.items() if name not in self._unknown}
        ignored = names_left_out(body, honoured=taken, defaults=DEFAULTS)
        taken |= {"model": request.model, "response_format": self._format(taken)}
        return Plan((Call(path="/audio/speech", body=msgspec.json.encode(taken)),), ignored)

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return `{"media": Media}`. Raises UpstreamError for an error under status 200."""
        return parse_answer(body, headers)

    def _format(self, body: Json) -> str:
        wanted: str = body.get("response_format", "mp3")
        return wanted if self._formats is None or wanted in self._formats else _FALLBACK_FORMAT


TOGETHER_SPEECH = OpenAISpeech(
    formats=frozenset({"mp3", "wav"}), unknown=frozenset({"speed", "instructions"})
)
