"""`POST /embeddings` of servers that already speak OpenAI.

The form that the client asked for is asked for, and both are read: base64 is a quarter of the
bytes, but not all servers know it.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Mapping, Sequence

import msgspec

from adapters import refusals
from adapters.base import Call, Json, Plan, Request
from adapters.errors import Interrupted

_FLOAT_BYTES = 4
_UNREADABLE = "The upstream's answer holds no embeddings of finite numbers."


class _Item(msgspec.Struct, frozen=True):
    embedding: str | list[float]
    index: int = 0


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: int | None = None


class _Answer(msgspec.Struct, frozen=True):
    data: list[_Item]
    usage: _Usage | None = None


_read = msgspec.json.Decoder(_Answer).decode


class OpenAIEmbedding:
    """Base URLs end in `/v1` or what stands for it. Token arrays go on as they are."""

    renders = False

    def plan(self, request: Request) -> Plan:
        """Return the one call: the client's body, unknown fields included."""
        body = {"encoding_format": "float"} | request.body | {"model": request.model}
        return Plan((Call(path="/embeddings", body=msgspec.json.encode(body)),))

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return `data`, in the order of the input, and `usage`. Raises UpstreamError."""
        answer = _parse(body)
        count = len(request.body["input"])
        if len(answer.data) != count:
            raise Interrupted(f"The upstream made {len(answer.data)} embeddings of {count} inputs.")
        items = sorted(answer.data, key=lambda item: item.index)
        tokens = answer.usage.prompt_tokens if answer.usage else None
        return {
            "data": [{"embedding": _floats(item.embedding)} for item in items],
            "usage": {} if tokens is None else {"prompt_tokens": tokens},
        }


def _parse(body: bytes) -> _Answer:
    try:
        return _read(body)
    except msgspec.DecodeError as exc:  # NaN and Infinity are no JSON
        raise refusals.from_unreadable(body, _UNREADABLE) from exc


def _floats(embedding: str | list[float]) -> Sequence[float]:
    """Return the numbers of an embedding, which in base64 are little-endian float32."""
    if not isinstance(embedding, str):
        return embedding
    try:
        data = binascii.a2b_base64(embedding, strict_mode=True)
        return struct.unpack(f"<{len(data) // _FLOAT_BYTES}f", data)
    except (ValueError, struct.error) as exc:
        raise Interrupted("The upstream's embedding is no base64 of float32.") from exc
