"""The native API's error bodies."""

import json

import pytest

from adapters import errors as upstream
from gateway.errors import BadRequest, Forbidden, GatewayError, from_upstream, model_not_found
from gateway.native.errors import native_body, native_event


def caused(kind: type[upstream.UpstreamError]) -> GatewayError:
    error = from_upstream(cause := kind("It broke off."))
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BadRequest("x"), "validation"),
        (BadRequest("x", status=413), "validation"),
        (BadRequest("x", status=422), "validation"),
        (BadRequest("x", status=429), "overloaded"),
        (BadRequest("x", status=405), "method_not_allowed"),
        (BadRequest("x", status=429, code="insufficient_quota"), "insufficient_quota"),
        (Forbidden("x"), "forbidden"),
        (model_not_found("m"), "not_found"),
        (GatewayError("x", code="internal_error"), "internal"),
        (caused(upstream.Overloaded), "overloaded"),
        (caused(upstream.Rejected), "validation"),
        (caused(upstream.ContextTooLong), "validation"),
        (caused(upstream.Failed), "generation"),
        (caused(upstream.Interrupted), "incomplete_generation"),
        (caused(upstream.TimedOut), "timeout"),
        (caused(upstream.Unreachable), "unavailable"),
        (caused(upstream.OutOfCredits), "insufficient_quota"),
    ],
)
def test_the_type_is_one_by_which_clients_choose(error, kind):
    assert json.loads(native_body(error)) == {"error": error.message, "error_type": kind}


def test_a_model_that_loads_says_until_when():
    error = from_upstream(upstream.ModelLoading("Loading.", status=503, retry_after_seconds=19.2))
    told = json.loads(native_body(error))
    assert told == {"error": "Loading.", "error_type": "loading", "estimated_time": 20.0}


def test_an_event_holds_the_body():
    error = BadRequest("x")
    assert native_event(error) == b"data: " + native_body(error) + b"\n\n"
