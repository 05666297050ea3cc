"""The native API's error bodies. Its clients break on OpenAI's, whose `error` is an object.

Sources: text-generation-inference 3.3, router/src/server.rs (`error_type`); huggingface_hub 2.4,
inference/_common.py, and TGI's Python client, which choose their exceptions by it.
"""

from __future__ import annotations

from types import MappingProxyType

import msgspec

from adapters.base import Json
from adapters.errors import Interrupted
from gateway.errors import GatewayError

_BY_CODE = MappingProxyType(
    {
        "model_loading": "loading",
        "insufficient_quota": "insufficient_quota",
        "upstream_overloaded": "overloaded",
        "upstream_error": "generation",
        "unhealthy": "healthcheck",
    }
)
_BY_STATUS = MappingProxyType(
    {
        400: "validation",
        401: "unauthorized",
        402: "insufficient_quota",
        403: "forbidden",
        404: "not_found",
        405: "method_not_allowed",
        408: "timeout",
        413: "validation",
        415: "validation",
        422: "validation",
        429: "overloaded",  # by it clients know that they may ask again
        501: "not_supported",
        503: "unavailable",
        504: "timeout",
    }
)
_OTHERWISE = "internal"


def native_body(error: GatewayError) -> bytes:
    """Return `{"error": text, "error_type": …}`; of a model that is loading also until when."""
    body: Json = {"error": error.message, "error_type": _error_type(error)}
    if error.code == "model_loading":
        body["estimated_time"] = float(error.headers.get("retry-after", 0))
    return msgspec.json.encode(body)


def native_event(error: GatewayError) -> bytes:
    """Return the body as the SSE frame that ends a stream which cannot go on."""
    return b"data: %b\n\n" % native_body(error)


def _error_type(error: GatewayError) -> str:
    if isinstance(error.__cause__, Interrupted):
        return "incomplete_generation"
    by_status = _BY_STATUS.get(error.status, _OTHERWISE)
    return _BY_CODE.get(error.code or "", by_status)
