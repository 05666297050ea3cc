"""What the gateway answers when it cannot answer: OpenAI's error body, by type of failure.

GatewayError                 status, type, code, param
  BadRequest                 400 (or 404, 405, 413, 415): the request is wrong
  Unauthenticated            401
  Forbidden                  403
  UpstreamFailed             what an `UpstreamError` becomes: 400 … 504
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from adapters import errors as upstream
from adapters.errors import DialectError, UpstreamError


class GatewayError(Exception):
    """A request that ends in an error. `message` is for the client: no secret, no prompt."""

    status = 500
    type = "server_error"

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        type: str | None = None,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status or self.status
        self.type = type or self.type
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """Return OpenAI's error object, all four keys present."""
        error = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
        }
        return msgspec.json.encode({"error": error})

    def event(self) -> bytes:
        """Return the body as the SSE frame that ends a stream which cannot go on."""
        return b"data: %b\n\n" % self.body()


class BadRequest(GatewayError):
    """The client can mend this one."""

    status = 400
    type = "invalid_request_error"


class Unauthenticated(BadRequest):
    """No key, or none that is known and alive."""

    status = 401


class Forbidden(BadRequest):
    """A known key that may not do this."""

    status = 403


class UpstreamFailed(GatewayError):
    """The request was fine; what stands behind the gateway was not."""


def model_not_found(name: str) -> BadRequest:
    """Return the answer for a model that is not there, or not for this caller."""
    return BadRequest(
        f"The model {name[:200]!r} does not exist or you do not have access to it.",
        status=404,
        code="model_not_found",
        param="model",
    )


# UpstreamError → (status, type, code). The upstream's own sentence is passed on; those that
# concern the operator alone have none to pass on (`adapters.refusals`).
_ANSWERS: dict[type[UpstreamError], tuple[int, str, str]] = {
    upstream.Unreachable: (503, "server_error", "upstream_unreachable"),
    upstream.TimedOut: (504, "server_error", "upstream_timeout"),
    upstream.Interrupted: (502, "server_error", "upstream_error"),
    upstream.ModelLoading: (503, "server_error", "model_loading"),
    upstream.Overloaded: (503, "server_error", "upstream_overloaded"),
    upstream.OutOfCredits: (402, "insufficient_quota", "insufficient_quota"),
    upstream.Misconfigured: (502, "server_error", "upstream_misconfigured"),
    upstream.Gated: (403, "invalid_request_error", "model_gated"),
    upstream.ModelMissing: (404, "invalid_request_error", "model_not_found"),
    upstream.Rejected: (400, "invalid_request_error", "invalid_value"),
    upstream.ContextTooLong: (400, "invalid_request_error", "context_length_exceeded"),
    upstream.Failed: (502, "server_error", "upstream_error"),
}
_PARAMS: dict[type[UpstreamError], str] = {
    upstream.Gated: "model",
    upstream.ModelMissing: "model",
    upstream.ContextTooLong: "messages",
}


def from_upstream(error: UpstreamError) -> GatewayError:
    """Return what the client is told of an upstream's failure, which is its cause.

    An upstream's 429 stays one, so that SDKs back off as they were built to.
    """
    kind = type(error)
    status, error_type, code = next(_ANSWERS[base] for base in kind.__mro__ if base in _ANSWERS)
    if kind is upstream.Overloaded and error.status == 429:
        status, error_type, code = 429, "rate_limit_error", "rate_limit_exceeded"
    if isinstance(error, upstream.Rejected):
        code = code if kind is upstream.ContextTooLong else error.code or code
    headers = {}
    if error.retry_after_seconds is not None and status in (429, 503):
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_seconds)))
    failed = UpstreamFailed(
        error.message,
        status=status,
        type=error_type,
        code=code,
        param=error.param or _PARAMS.get(kind),
        headers=headers,
    )
    failed.__cause__ = error
    return failed


def from_dialect(error: DialectError) -> BadRequest:
    """Return the refusal of what a target's dialect cannot say."""
    return BadRequest(error.message, code=error.code, param=error.param)


# pydantic's error type → OpenAI's code and sentence.
_SENTENCES: dict[str, tuple[str, str]] = {
    "missing": ("missing_required_parameter", "Missing required parameter: {name}."),
    "greater_than_equal": (
        "below_min_value",
        "Invalid {name}: expected a value >= {ge}, but got {input} instead.",
    ),
    "greater_than": (
        "below_min_value",
        "Invalid {name}: expected a value > {gt}, but got {input} instead.",
    ),
    "less_than_equal": (
        "above_max_value",
        "Invalid {name}: expected a value <= {le}, but got {input} instead.",
    ),
    "less_than": (
        "above_max_value",
        "Invalid {name}: expected a value < {lt}, but got {input} instead.",
    ),
    "too_short": (
        "empty_array",
        "Invalid {name}: expected at least {min_length} items, but got {actual_length}.",
    ),
    "too_long": (
        "array_above_max_length",
        "Invalid {name}: expected at most {max_length} items, but got {actual_length}.",
    ),
    "string_too_short": (
        "empty_string",
        "Invalid {name}: expected a string of at least {min_length} characters.",
    ),
    "string_too_long": (
        "string_above_max_length",
        "Invalid {name}: expected a string of at most {max_length} characters.",
    ),
    "literal_error": (
        "invalid_value",
        "Invalid value for {name}: {input}. Supported values are: {expected}.",
    ),
    "union_tag_invalid": (
        "invalid_value",
        "Invalid value for {name}: {input}. Supported values are: {expected_tags}.",
    ),
    "union_tag_not_found": (
        "missing_required_parameter",
        "Missing required parameter: {name}.",
    ),
}
_WANTED = {
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a decimal",
    "bool_type": "a boolean",
    "list_type": "an array",
    "dict_type": "an object",
    "model_attributes_type": "an object",
    "finite_number": "a finite number",
    "float_parsing": "a decimal",
    "bool_parsing": "a boolean",
}
_LONGEST = 60  # characters of a client's text that are repeated to it
_NAMES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal",
    list: "an array",
}


def from_validation(found: Sequence[Mapping[str, Any]], body: Any) -> BadRequest:
    """Return OpenAI's form of pydantic's errors over `body`, the decoded request.

    Of several (a union fails once per branch) the one that leads farthest into the body counts
    (a list that is too long is not looked into), at one place what says most.
    """
    places = [_place(error, body) for error in found]
    path, value, error = max(places, key=_weight)
    kind, context = error["type"], error.get("ctx", {})
    param = _spell(path) or None
    name = repr(param) if param else "the body"
    if kind in _SENTENCES:
        code, sentence = _SENTENCES[kind]
        message = sentence.format(**{**context, "name": name, "input": _short(value)})
        return BadRequest(message, code=code, param=param)
    kinds = [error["type"] for where, _, error in places if where == path]
    wanted = " or ".join(dict.fromkeys(_WANTED.get(kind, "another type") for kind in kinds))
    message = f"Invalid type for {name}: expected {wanted}, but got {_name(value)} instead."
    return BadRequest(message, code="invalid_type", param=param)


_Place = tuple[list[int | str], Any, Mapping[str, Any]]


def _place(error: Mapping[str, Any], body: Any) -> _Place:
    """Return as much of the error's `loc` as leads into `body`, what stands there, the error.

    pydantic puts the names of union branches into `loc`; those are no part of the body.
    """
    path: list[int | str] = []
    for step in error["loc"]:
        inside = (isinstance(body, dict) and step in body) or (
            isinstance(body, list) and isinstance(step, int) and step < len(body)
        )
        if inside:
            body = body[step]
            path.append(step)
    if error["type"] == "missing":
        path.append(error["loc"][-1])
    elif error["type"].startswith("union_tag"):
        tag = error["ctx"]["discriminator"].strip("'")
        path.append(tag)
        body = body.get(tag)
    return path, body, error


def _weight(place: _Place) -> tuple[bool, int, list[int], bool]:
    path, _, error = place
    kind = error["type"]
    indexes = [step for step in path if isinstance(step, int)]
    return kind == "too_long", len(path), indexes, kind in _SENTENCES


def _spell(path: list[int | str]) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step[:_LONGEST]}" for step in path)
    return "".join(steps)[1:]


def _name(value: Any) -> str:
    return "null" if value is None else _NAMES.get(type(value), "an object")


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "..."
    return repr(text) if isinstance(value, str) else text
