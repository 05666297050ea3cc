"""What clients are told of an upstream's failure."""

from __future__ import annotations

import json

import pytest

from adapters import errors as upstream
from adapters.errors import DialectError, UpstreamError
from adapters.refusals import from_response
from gateway.errors import BadRequest, GatewayError, from_dialect, from_upstream


def subclasses(kind: type[UpstreamError]) -> list[type[UpstreamError]]:
    return [kind for sub in kind.__subclasses__() for kind in [sub, *subclasses(sub)]]


@pytest.mark.parametrize("kind", subclasses(UpstreamError))
def test_every_kind_of_failure_has_an_answer(kind: type[UpstreamError]) -> None:
    error = from_upstream(kind("what happened"))
    assert 400 <= error.status < 600
    body = json.loads(error.body())["error"]
    assert set(body) == {"message", "type", "param", "code"}
    assert body["message"] == "what happened"
    assert body["type"]
    assert body["code"]


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (upstream.Unreachable("x"), 503, "upstream_unreachable"),
        (upstream.TimedOut("x"), 504, "upstream_timeout"),
        (upstream.Interrupted("x"), 502, "upstream_error"),
        (upstream.ModelLoading("x"), 503, "model_loading"),
        (upstream.Overloaded("x", status=503), 503, "upstream_overloaded"),
        (upstream.Overloaded("x", status=429), 429, "rate_limit_exceeded"),
        (upstream.OutOfCredits("x"), 402, "insufficient_quota"),
        (upstream.Misconfigured("x", status=401), 502, "upstream_misconfigured"),
        (upstream.ModelMissing("x"), 404, "model_not_found"),
        (upstream.Rejected("x"), 400, "invalid_value"),
        (upstream.Rejected("x", code="theirs"), 400, "theirs"),
        (upstream.ContextTooLong("x", code="theirs"), 400, "context_length_exceeded"),
        (upstream.Failed("x"), 502, "upstream_error"),
    ],
)
def test_failures_have_the_status_and_code_that_sdks_act_upon(
    error: UpstreamError, status: int, code: str
) -> None:
    answer = from_upstream(error)
    assert (answer.status, answer.code) == (status, code)


@pytest.mark.parametrize(
    ("error", "param"),
    [
        (upstream.ModelMissing("x"), "model"),
        (upstream.ContextTooLong("x"), "messages"),
        (upstream.Rejected("x", param="stop"), "stop"),
        (upstream.Failed("x"), None),
    ],
)
def test_the_parameter_at_fault_is_named(error: UpstreamError, param: str | None) -> None:
    assert from_upstream(error).param == param


@pytest.mark.parametrize(("seconds", "told"), [(0, "1"), (0.2, "1"), (1.2, "2"), (20.0, "20")])
def test_retry_after_is_whole_seconds_and_never_too_short(seconds: float, told: str) -> None:
    error = from_upstream(upstream.ModelLoading("x", retry_after_seconds=seconds))
    assert error.headers == {"retry-after": told}


@pytest.mark.parametrize(
    ("headers", "body", "told"),
    [
        ({"retry-after": "9" * 400}, b"{}", "86400"),
        ({}, b'{"error": "x", "estimated_time": 1%s}' % (b"0" * 400), "86400"),
        ({"retry-after": "Mon, 01 Jan 0001 00:00:00 GMT"}, b"{}", "1"),
        ({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"}, b"{}", "86400"),
    ],
)
def test_retry_after_has_bounds_whatever_an_upstream_says(
    headers: dict[str, str], body: bytes, told: str
) -> None:
    error = from_upstream(from_response(503, headers, body))
    assert error.headers == {"retry-after": told}


def test_retry_after_is_only_told_where_a_retry_helps() -> None:
    assert from_upstream(upstream.Rejected("x", retry_after_seconds=5)).headers == {}


def test_what_a_dialect_cannot_say_is_the_clients_400() -> None:
    error = from_dialect(DialectError("No.", param="suffix"))
    assert isinstance(error, BadRequest)
    assert (error.status, error.param, error.code) == (400, "suffix", "unsupported_parameter")


def test_an_error_without_param_and_code_says_null() -> None:
    assert json.loads(GatewayError("x").body()) == {
        "error": {"message": "x", "type": "server_error", "param": None, "code": None}
    }
