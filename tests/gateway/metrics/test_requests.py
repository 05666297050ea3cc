"""What becomes of single requests in the metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from gateway.access import Access
from gateway.ledger import Record
from gateway.metrics.registry import Series
from gateway.metrics.requests import HUB, Requests

SCOPE: Any = {"raw_path": b"/"}
REQUESTS = "dragoman_requests_total"


def record(**fields: Any) -> Record:
    given = {"request_id": "r", "key_id": "k", "model": "m", "target": "t", "upstream": "u"}
    return Record(**given | {"task": "chat"} | fields)


def admitted(made: Record, **fields: Any) -> Access:
    access = Access("id", "POST", route="/v1/chat/completions", status=200, seconds=3)
    given = {
        "record": made,
        "found": None,
        "retries": 0,
        "is_degraded": False,
        "exceeded": None,
        "upstream_ms": 0.0,
        "is_stream": False,
    }
    access.exchange = SimpleNamespace(**given | fields)  # type: ignore[assignment]
    return access


def value(series: Series, name: str, **labels: str) -> float:
    return sum(
        sample.value
        for family in series.registry.collect()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


@pytest.fixture
def series() -> Series:
    return Series()


@pytest.fixture
def requests(series: Series) -> Requests:
    return Requests(series, ["m"])


def test_models_that_are_not_configured_are_the_hubs(series: Series, requests: Requests) -> None:
    for at in range(100):
        requests.ended(admitted(record(model=f"owner/name-{at}")), SCOPE)
    requests.ended(admitted(record()), SCOPE)
    assert value(series, REQUESTS, model=HUB) == 100
    assert value(series, REQUESTS, model="m") == value(series, REQUESTS) - 100 == 1


@pytest.mark.parametrize(
    ("status", "finish", "error"),
    [
        ("ok", "stop", ""),
        ("ok", "made up", ""),
        ("disconnected", "client_disconnected", "client_disconnected"),
        ("error", "upstream_timeout", "upstream_timeout"),
        ("error", "made up", "other"),
        ("error", None, "other"),
    ],
)
def test_durations_are_told_by_what_went_wrong(
    series: Series, requests: Requests, status: Any, finish: str | None, error: str
) -> None:
    requests.ended(admitted(record(status=status, finish=finish)), SCOPE)
    name = "gen_ai_server_request_duration_seconds_sum"
    assert value(series, name, error_type=error) == 3
    assert value(series, REQUESTS, status=status) == 1


def test_an_error_within_a_stream_is_an_error_that_was_told(
    series: Series, requests: Requests
) -> None:
    requests.ended(admitted(record(status="error", finish="upstream_error")), SCOPE)
    requests.ended(admitted(record(status="disconnected", finish="client_disconnected")), SCOPE)
    assert value(series, "dragoman_errors_total", code="upstream_error") == 1
    assert value(series, "dragoman_errors_total") == 1


def test_tokens_after_the_first_have_a_pace_if_the_stream_came_to_its_end(
    series: Series, requests: Requests
) -> None:
    stream = {"first_token_ms": 1000, "output_tokens": 5}
    requests.ended(admitted(record(**stream), is_stream=True), SCOPE)
    requests.ended(admitted(record(**stream, status="disconnected"), is_stream=True), SCOPE)
    requests.ended(admitted(record(**stream | {"output_tokens": 1}), is_stream=True), SCOPE)
    requests.ended(admitted(record(**stream)), SCOPE)  # a picture, or a sound, in pieces
    assert value(series, "gen_ai_server_time_per_output_token_seconds_sum") == 2 / 4
    assert value(series, "gen_ai_server_time_per_output_token_seconds_count") == 1
    assert value(series, "gen_ai_server_time_to_first_token_seconds_count") == 3


def test_requests_are_admitted_degraded_or_refused(series: Series, requests: Requests) -> None:
    requests.ended(admitted(record()), SCOPE)
    requests.ended(admitted(record(), is_degraded=True), SCOPE)
    refused = admitted(record(), record=None, exceeded="nano_usd", route=None, task="chat")
    requests.ended(refused, SCOPE)
    closed = admitted(record(), record=None, is_degraded=True, route=None, task="chat")
    requests.ended(closed, SCOPE)
    outcomes = {
        name: value(series, "dragoman_reservations_total", outcome=name)
        for name in ("admitted", "degraded", "refused")
    }
    assert outcomes == {"admitted": 1, "degraded": 1, "refused": 2}
    assert value(series, "dragoman_refusals_total", limit="usd_per_month") == 1
    assert value(series, "dragoman_refusals_total") == 1


def test_what_the_cache_had_is_told_of_admitted_requests(
    series: Series, requests: Requests
) -> None:
    missed = SimpleNamespace(status="miss")
    requests.ended(admitted(record(), found=missed), SCOPE)
    requests.ended(admitted(record(), found=missed, record=None, route=None, task="chat"), SCOPE)
    assert value(series, "dragoman_cache_requests_total", outcome="miss") == 1


def test_the_sums_of_configured_models_begin_at_zero(series: Series, requests: Requests) -> None:
    target = SimpleNamespace(upstream=SimpleNamespace(name="u"))
    model: Any = SimpleNamespace(id="m", task="chat", targets=[target])
    requests.expect([model])
    told = [sample for family in series.registry.collect() for sample in family.samples]
    sums = {sample.name: sample.value for sample in told if sample.labels.get("model") == "m"}
    assert sums == {"dragoman_cost_nano_usd_total": 0, "dragoman_cache_requests_total": 0}


def test_the_oldest_under_way_comes_first_and_goes_when_it_ends(requests: Requests) -> None:
    first, second = Access("1", "GET"), Access("2", "GET")
    requests.began(first, SCOPE)
    requests.began(second, SCOPE)
    assert [*requests.under_way] == [first, second]
    requests.ended(first, SCOPE)
    assert [*requests.under_way] == [second]
