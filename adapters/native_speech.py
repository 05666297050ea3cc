"""Native text to speech, `POST {base}/models/{id}`: one call per piece of the text.

Answers come as sound in any container (hf-inference: FLAC by default) or, from
huggingface-inference-toolkit, as JSON `{"audio": [[float, …]], "sampling_rate": N}`; which of
them, its bytes tell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from adapters import refusals
from adapters.base import Call, Json, Media, Plan, Request
from adapters.errors import Interrupted

# Said elsewhere in the native request, or by the gateway itself.
_HONOURED = frozenset("model input voice response_format stream_format".split())
_WITHOUT_EFFECT = frozenset("user metadata safety_identifier".split())
# Values that ask for what happens anyway.
_DEFAULTS: Json = {"speed": 1, "instructions": ""}
_ERROR = re.compile(rb'\s*\{\s*"error"')


class NativeSpeech:
    """`request.parameter_names` tells which of OpenAI's parameters the model has natively."""

    renders = True

    def plan(self, request: Request) -> Plan:
        """Return one call per prompt; what the model has no parameter for is left out."""
        body, names = request.body, request.parameter_names
        parameters = {native: body[name] for name, native in names.items() if name in body}
        known = _HONOURED | _WITHOUT_EFFECT | names.keys()
        ignored = tuple(
            name
            for name, value in body.items()
            if name not in known and value != _DEFAULTS.get(name)
        )
        path = f"/models/{request.model}" if request.model else "/"
        calls = (
            Call(path=path, body=_payload(text, parameters), index=index)
            for index, text in enumerate(request.prompts)
        )
        return Plan(tuple(calls), ignored)

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return `{"media": Media}`. Raises UpstreamError for an error under status 200."""
        return read_media(headers, body)


def read_media(headers: Mapping[str, str], body: bytes) -> Json:
    """Return `{"media": Media}`, the sound as it came; JSON is looked at only for an error.

    Raises UpstreamError for an error under status 200, and for nothing at all.
    """
    if not body:
        raise Interrupted("The upstream sent no sound.")
    if _ERROR.match(body):
        raise refusals.from_object(_parse(body))
    return {"media": Media(body, headers.get("content-type", ""))}


def _payload(text: str, parameters: Json) -> bytes:
    body: Json = {"inputs": text}
    return msgspec.json.encode(body | {"parameters": parameters} if parameters else body)


def _parse(body: bytes) -> Json:
    try:
        return msgspec.json.decode(body, type=Json)
    except msgspec.DecodeError as exc:
        raise Interrupted("The upstream sent JSON that cannot be read.") from exc
