"""Native feature extraction as OpenAI's embeddings: hf-inference, endpoints of it, and TEI.

Sources: huggingface_hub 1.x (parameters stand beside `inputs`), text-embeddings-inference 1.9
(router/src/http/types.rs), and recorded answers, whose shape tells who made them:

    [f, …]              one text, sentence-transformers
    [[f, …], …]         a vector per text: sentence-transformers, TEI
    [[[f, …], …], …]    a vector per token of each text: plain transformers
    [[[[f, …], …]], …]  the same, of a pipeline that got a list
    {"embeddings": …}   any of these, huggingface-inference-toolkit
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from adapters import refusals
from adapters.base import Call, Json, Plan, Request
from adapters.errors import DialectError, Interrupted
from adapters.leaving_out import RECORDS, names_left_out
from adapters.native import model_path, told_count

_NATIVE = ("normalize", "truncate", "truncation_direction", "prompt_name")
_HONOURED = frozenset({"model", "input", "encoding_format", *_NATIVE})
_UNREADABLE = "The upstream's answer holds no embeddings of finite numbers."
_TOKEN_COUNTS = ("x-prompt-tokens", "x-compute-tokens")  # TGI's spelling, TEI's


class _Named(msgspec.Struct, frozen=True):
    embeddings: msgspec.Raw


# By depth. A decoder gives up at the first bracket or number that it does not expect.
_READERS: tuple[Callable[[bytes], Any], ...] = tuple(
    msgspec.json.Decoder(shape).decode
    for shape in (
        list[float],
        list[list[float]],
        list[list[list[float]]],
        list[list[list[list[float]]]],
    )
)
_read_named = msgspec.json.Decoder(_Named).decode


class NativeEmbedding:
    """What `hf` and `tei` have in common: all but the path."""

    renders = True

    def path(self, request: Request) -> str:
        """Return the path under the upstream's base URL."""
        raise NotImplementedError

    def plan(self, request: Request) -> Plan:
        """Return the one call, with `prompts` as its texts. Raises DialectError."""
        body = request.body
        if "dimensions" in body:
            raise DialectError(
                "This model's embeddings cannot be shortened: 'dimensions' is not supported.",
                param="dimensions",
            )
        ignored = names_left_out(body, honoured=_HONOURED | RECORDS)
        payload = {
            "inputs": request.prompts,
            **{name: body[name] for name in _NATIVE if name in body},
        }
        call = Call(path=self.path(request), body=msgspec.json.encode(payload))
        return Plan((call,), ignored)

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return `data` and, if it is told, `usage`.

        An `embedding` is a list of numbers, or a list of those, one per token. Raises
        UpstreamError for an error under status 200, Interrupted for what is no answer.
        """
        found = _vectors(body, len(request.prompts))
        tokens = told_count(headers, *_TOKEN_COUNTS)
        return {
            "data": [{"embedding": vector} for vector in found],
            "usage": {} if tokens is None else {"prompt_tokens": tokens},
        }


class HfEmbedding(NativeEmbedding):
    """The native task API; a target without a model is an endpoint's root."""

    def path(self, request: Request) -> str:
        """Return the task's own path: a model may serve sentence similarity at `/models/{id}`."""
        path = model_path(request.model)
        return f"{path}/pipeline/feature-extraction" if request.model else path


class TeiEmbedding(NativeEmbedding):
    """A text-embeddings-inference server at its own root."""

    def path(self, request: Request) -> str:
        """Return the path, which knows no models."""
        return "/embed"


def _vectors(body: bytes, count: int) -> list[Any]:
    """Return what was made of each of `count` texts. Raises UpstreamError."""
    for depth, read in enumerate(_READERS, 1):
        try:
            found = _by_text(read(body), depth, count)
        except msgspec.ValidationError:
            continue
        except msgspec.DecodeError as exc:  # NaN and Infinity are no JSON
            raise Interrupted(_UNREADABLE) from exc
        if len(found) != count:
            raise Interrupted(f"The upstream made {len(found)} embeddings of {count} texts.")
        return found
    try:
        return _vectors(bytes(_read_named(body).embeddings), count)
    except msgspec.DecodeError as exc:
        raise refusals.from_unreadable(body, _UNREADABLE) from exc


def _by_text(found: list[Any], depth: int, count: int) -> list[Any]:
    """Return `found` with one entry per text, a vector or several."""
    match depth:
        case 1:
            return [found]
        case 2 if count == 1 and len(found) > 1:
            return [found]  # the tokens of the only text
        case 4 if all(len(text) == 1 for text in found):
            return [text[0] for text in found]
        case 4:
            raise Interrupted("The upstream's embeddings are nested too deep.")
        case _:
            return found
