"""What an upstream's error answer means: status and body in, an UpstreamError out. Pure.

Bodies come as `{"error": str | list | object}`, as `{"detail"}` (which may hold one of those) or
`{"message"}`, as plain text (axum's extractors), HTML (proxies) or nothing at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from time import time
from typing import Any

import msgspec

from adapters import errors
from adapters.errors import UpstreamError

_LONGEST_MESSAGE = 2000
_LONGEST_RETRY_SECONDS = 86_400.0  # whatever number is told: it must fit into a header
_DEFAULT_LOADING_SECONDS = 20.0  # what hf-inference says when it does not know

_BY_STATUS: dict[int, type[UpstreamError]] = {
    400: errors.Rejected,
    401: errors.Misconfigured,
    402: errors.OutOfCredits,
    403: errors.Misconfigured,
    404: errors.ModelMissing,
    405: errors.Misconfigured,
    407: errors.Misconfigured,
    410: errors.Misconfigured,
    413: errors.Rejected,
    415: errors.Misconfigured,
    422: errors.Rejected,
    429: errors.Overloaded,
    501: errors.ModelMissing,
    503: errors.Overloaded,
}

_STARTING = frozenset((502, 503))

# text-generation-inference, router/src/lib.rs: `error_type` of an event or a body.
_BY_TYPE: dict[str, type[UpstreamError]] = {
    "validation": errors.Rejected,
    "tool_error": errors.Rejected,
    "template_error": errors.Rejected,
    "overloaded": errors.Overloaded,
    "healthcheck": errors.Overloaded,
    "generation": errors.Failed,
    "incomplete_generation": errors.Failed,
}

# The status that an event under status 200 stands for, where its type alone tells one.
_STATUS_BY_TYPE = {"overloaded": 429}

# Some servers say by words alone what they should say by status: these are theirs.
_BY_TEXT: tuple[tuple[re.Pattern[str], type[UpstreamError]], ...] = (
    (re.compile(r"is currently loading|^Loading model$"), errors.ModelLoading),
    (re.compile(r"not supported by (any )?provider"), errors.ModelMissing),
    (re.compile(r"`inputs` tokens \+ `max_new_tokens` must be <="), errors.ContextTooLong),
    (re.compile(r"`inputs` must have less than \d+ tokens"), errors.ContextTooLong),
    (re.compile(r"maximum context length|exceeds? the available context"), errors.ContextTooLong),
    (re.compile(r"longer than the model's context length"), errors.ContextTooLong),
    (re.compile(r"^image input is not supported"), errors.Rejected),
    (
        re.compile(r"CUDA (error|out of memory)|OutOfMemoryError|you tried to allocate"),
        errors.Failed,
    ),
)

_BY_CODE: dict[str, type[UpstreamError]] = {
    "context_length_exceeded": errors.ContextTooLong,
    "insufficient_quota": errors.OutOfCredits,  # OpenAI says it with a 429, as if it would pass
}

_read_object = msgspec.json.Decoder(dict[str, Any]).decode
_OPERATORS_CONCERN = {
    errors.Misconfigured: "The upstream refused the gateway itself; its operator must look at it.",
    errors.OutOfCredits: "The gateway's account at the upstream has no credits left.",
}


@dataclass(frozen=True, slots=True)
class _Said:
    """What an error body says, whatever its form."""

    text: str
    kind: str | None = None
    code: str | None = None
    param: str | None = None
    status: int | None = None
    estimated_seconds: float | None = None


def from_response(
    status: int,
    headers: Mapping[str, str],
    body: bytes,
    *,
    is_cold_by_status: bool = False,
    is_gated: bool = False,
) -> UpstreamError:
    """Return the error that an answer of `status` stands for.

    `is_cold_by_status`: a proxy in front of the server says by 502 or 503 that it is starting.
    `is_gated`: the model is behind a licence, so that 403 says that it was not accepted.
    """
    if is_gated and status == HTTPStatus.FORBIDDEN:
        return gated()
    error = _build(_said(body), status, _retry_after(headers))
    if is_cold_by_status and status in _STARTING and isinstance(error, errors.TRANSIENT):
        return errors.ModelLoading(
            error.message,
            status=status,
            retry_after_seconds=error.retry_after_seconds or _DEFAULT_LOADING_SECONDS,
        )
    return error


def gated() -> UpstreamError:
    """Return what the Hub and its router mean by refusing a model that is gated."""
    return errors.Gated(
        "The model is gated: the operator of this gateway must accept its licence on the Hub.",
        status=HTTPStatus.FORBIDDEN,
    )


def from_object(body: Mapping[str, Any]) -> UpstreamError:
    """Return the error that an object holding `error` stands for: an event, or a 200's body."""
    said = _said_by(body)
    return _build(said, said.status or _STATUS_BY_TYPE.get(said.kind or ""), None)


def parse_object(body: bytes) -> dict[str, Any]:
    """Return a body's JSON object. Raises Interrupted for what is none, or the error it holds."""
    try:
        decoded = _read_object(body)
    except msgspec.DecodeError as exc:
        raise errors.Interrupted("The upstream sent JSON that cannot be read.") from exc
    if decoded.get("error"):
        raise from_object(decoded)
    return decoded


def from_unreadable(body: bytes, otherwise: str) -> UpstreamError:
    """Return what a 200 that holds no answer means: some servers report errors that way.

    `otherwise`: the sentence for a body that reports nothing.
    """
    try:
        decoded = msgspec.json.decode(body)
    except msgspec.DecodeError:
        decoded = None
    if isinstance(decoded, dict) and decoded.get("error"):
        return from_object(decoded)
    return errors.Interrupted(otherwise)


def _build(said: _Said, status: int | None, retry_after: float | None) -> UpstreamError:
    kind = _kind(said, status)
    if kind is errors.ModelLoading:
        retry_after = said.estimated_seconds or retry_after or _DEFAULT_LOADING_SECONDS
    fallback = "The upstream failed." if status is None else f"The upstream answered {status}."
    return kind(
        _OPERATORS_CONCERN.get(kind) or said.text[:_LONGEST_MESSAGE] or fallback,
        status=status,
        retry_after_seconds=retry_after,
        param=said.param,
        code=said.code,
    )


def _kind(said: _Said, status: int | None) -> type[UpstreamError]:
    by_status = _BY_STATUS.get(status or 0, errors.Failed)
    if said.estimated_seconds is not None:
        return errors.ModelLoading
    if by_status in _OPERATORS_CONCERN:
        return by_status
    for pattern, kind in _BY_TEXT:
        if pattern.search(said.text):
            return kind
    if kind_by_code := _BY_CODE.get(said.code or ""):
        return kind_by_code
    return _BY_TYPE.get(said.kind or "", by_status)


def _said(body: bytes) -> _Said:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        text = body.decode("utf-8", "replace").strip()
        return _Said("" if text.startswith("<") else text)
    if isinstance(decoded, dict):
        return _said_by(decoded)
    return _Said(decoded if isinstance(decoded, str) else "")


def _said_by(body: Mapping[str, Any]) -> _Said:
    error = next((body[key] for key in ("error", "message", "detail") if body.get(key)), "")
    if isinstance(error, dict):
        error = error.get("error") or error
    kind, estimated = body.get("error_type"), body.get("estimated_time")
    inner = error if isinstance(error, dict) else {}
    status = inner.get("http_status_code", inner.get("code"))
    return _Said(
        text=_sentence(error),
        kind=str(kind or inner.get("type") or "").lower() or None,
        code=inner["code"] if isinstance(inner.get("code"), str) else None,
        param=inner["param"] if isinstance(inner.get("param"), str) else None,
        status=status if isinstance(status, int) else None,
        estimated_seconds=_bounded(estimated) if isinstance(estimated, (int, float)) else None,
    )


def _sentence(error: object) -> str:
    match error:
        case str():
            return error
        case list():
            return "; ".join(map(_sentence, error))
        case dict():
            return _sentence(error.get("message") or error.get("msg") or "")
        case _:
            return ""


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """RFC 9110 §10.2.3: seconds, or a date."""
    value = headers.get("retry-after", "")
    if value.isdecimal():
        return _bounded(float(value))
    try:
        return _bounded(parsedate_to_datetime(value).timestamp() - time())
    except ValueError:
        return None


def _bounded(seconds: float) -> float:
    return float(min(max(0, seconds), _LONGEST_RETRY_SECONDS))
