"""`POST /audio/transcriptions` and `/audio/translations` of servers that already speak OpenAI."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping

from adapters import refusals
from adapters.base import Call, Json, Media, Plan, Request
from adapters.errors import Interrupted
from adapters.transcription_parameters import media_of, wants_times

# The route says the task. The gateway makes events, subtitles and texts by itself.
_OWN = frozenset({"task", "stream", "response_format"})
_PATHS = {"transcribe": "/audio/transcriptions", "translate": "/audio/translations"}
_ENDINGS = {"audio/wav": "wav", "audio/flac": "flac", "audio/mpeg": "mp3"}
# WHATWG HTML, multipart form data: how names are escaped.
_ESCAPES = str.maketrans({'"': "%22", "\r": "%0D", "\n": "%0A"})


class OpenAITranscription:
    """Base URLs end in `/v1` or what stands for it. Unknown fields go on."""

    renders = False

    def plan(self, request: Request) -> Plan:
        """Return the one call, which asks for JSON, with times if the client is to get some."""
        body, media = request.body, media_of(request)
        fields = {name: value for name, value in body.items() if name not in _OWN}
        fields["model"] = request.model
        fields["response_format"] = "verbose_json" if wants_times(body) else "json"
        ignored: tuple[str, ...] = ()
        if body.get("response_format") != "verbose_json" and "timestamp_granularities" in fields:
            del fields["timestamp_granularities"]
            ignored = ("timestamp_granularities",)
        boundary = secrets.token_hex(16)
        call = Call(
            path=_PATHS[body["task"]],
            body=_render_form(fields, media, boundary=boundary),
            headers={"content-type": f"multipart/form-data; boundary={boundary}"},
        )
        return Plan((call,), ignored)

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return `text`, the upstream's object as `whole`, and its times as native chunks.

        Raises UpstreamError for an error under status 200.
        """
        whole = _parse(body)
        answer: Json = {"text": whole["text"].strip(), "whole": whole}
        for kind, name in (("segments", "text"), ("words", "word")):
            if items := whole.get(kind):
                answer[kind] = [_chunk(item, name) for item in items]
        return answer


def _render_form(fields: Json, media: Media, *, boundary: str) -> bytes:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n'.encode()
        for name, text in _texts(fields)
    ]
    head = (
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; '
        f'filename="audio.{_ENDINGS.get(media.type, "bin")}"\r\nContent-Type: {media.type}\r\n\r\n'
    )
    return b"".join([*parts, head.encode(), media.data, f"\r\n--{boundary}--\r\n".encode()])


def _texts(fields: Json) -> Iterator[tuple[str, str]]:
    for field, value in fields.items():
        name = field.translate(_ESCAPES)
        if isinstance(value, list):
            yield from ((f"{name}[]", str(item)) for item in value)
        else:
            yield name, str(value)


def _chunk(item: Json, name: str) -> Json:
    return {"text": item.get(name, ""), "timestamp": [item.get("start"), item.get("end")]}


def _parse(body: bytes) -> Json:
    whole = refusals.parse_object(body)
    if not isinstance(whole.get("text"), str):
        raise Interrupted("The upstream's answer holds no text.")
    return whole
