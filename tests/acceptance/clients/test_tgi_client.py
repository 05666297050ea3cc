"""TGI's own Python client finds what it knows from TGI."""

from __future__ import annotations

from typing import Any

import pytest

from tests.acceptance.clients.commands import from_pypi
from tests.acceptance.clients.conftest import Facts, Run, assert_raised
from tests.acceptance.clients.upstream import FAILED

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
async def facts(run: Run) -> Facts:
    """What the scenarios saw."""
    return await run(from_pypi("tgi", "text-generation", environment="tgi"))


@pytest.mark.parametrize("scenario", ["text", "text_streamed"])
async def test_a_text_comes_with_its_details(facts: Facts, continued: str, scenario: str) -> None:
    assert facts[scenario] == {"saw": [continued, 12, "length"]}


@pytest.mark.parametrize("scenario", ["text_async", "text_async_streamed"])
async def test_the_asynchronous_client_gets_the_same(
    facts: Facts, continued: str, scenario: str
) -> None:
    assert facts[scenario] == {"saw": continued}


async def test_a_chat_is_answered(facts: Facts) -> None:
    assert facts["chat"] == {"saw": ["The capital of France is Paris.", 8]}


ERRORS: dict[str, tuple[str, str]] = {
    "wrong_key": ("UnknownError", "Incorrect API key provided"),
    "spent_quota": ("RateLimitExceededError", "the key's budget of 1 tokens per day"),
    "no_such_model": ("NotFoundError", "The model 'no/such' does not exist"),
    "too_much_asked": ("ValidationError", "Input validation error: too long"),
    "busy": ("OverloadedError", "Model is overloaded"),
    "busy_streamed": ("OverloadedError", "Model is overloaded"),
    "loading": ("UnknownError", "loading"),
}


@pytest.mark.parametrize("scenario", ERRORS)
async def test_a_failure_raises_the_exception_that_is_made_for_it(
    facts: Facts, scenario: str
) -> None:
    assert_raised(facts, scenario, ERRORS[scenario])


LATE: dict[str, Any] = {
    "failing_late": ["Paris", FAILED],
    "breaking_off_async": ["Paris", "IncompleteGenerationError"],
}


@pytest.mark.parametrize("scenario", LATE)
async def test_a_stream_that_fails_raises_after_what_came_before(
    facts: Facts, scenario: str
) -> None:
    assert facts[scenario] == {"saw": LATE[scenario]}
