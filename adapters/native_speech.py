"""Native text to speech, `POST {base}/models/{id}`: one call per piece of the text.

Answers come as sound in any container (hf-inference: FLAC by default) or, from
huggingface-inference-toolkit, as JSON `{"audio": [[float, …]], "sampling_rate": N}`; which of
them, its bytes tell.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from adapters.base import Call, Json, Plan, Request
from adapters.leaving_out import RECORDS, names_left_out
from adapters.native import model_path
from adapters.sound import DEFAULTS, parse_answer

# Said elsewhere in the native request, or by the gateway itself.
_HONOURED = frozenset("model input voice response_format stream_format".split())


class NativeSpeech:
    """`request.parameter_names` tells which of OpenAI's parameters the model has natively."""

    renders = True

    def plan(self, request: Request) -> Plan:
        """Return one call per prompt; what the model has no parameter for is left out."""
        body, names = request.body, request.parameter_names
        parameters = {native: body[name] for name, native in names.items() if name in body}
        honoured = _HONOURED | RECORDS | names.keys()
        ignored = names_left_out(body, honoured=honoured, defaults=DEFAULTS)
        path = model_path(request.model)
        calls = (
            Call(path=path, body=_payload(text, parameters), index=index)
            for index, text in enumerate(request.prompts)
        )
        return Plan(tuple(calls), ignored)

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return `{"media": Media}`. Raises UpstreamError for an error under status 200."""
        return parse_answer(body, headers)


def _payload(text: str, parameters: Json) -> bytes:
    body: Json = {"inputs": text}
    return msgspec.json.encode(body | {"parameters": parameters} if parameters else body)
