"""huggingface.js, the last release that speaks the native API for texts and the newest one."""

from __future__ import annotations

import pytest

from tests.acceptance.clients.commands import from_npm
from tests.acceptance.clients.conftest import Facts, Run
from tests.acceptance.clients.upstream import FAILED, SAID

pytestmark = pytest.mark.anyio

VERSIONS = ("3.3.7", "4.13.30")
ERROR_CLASSES = ("Error", "InferenceClientProviderApiError")


@pytest.fixture(scope="module", params=VERSIONS)
async def facts(request: pytest.FixtureRequest, run: Run) -> Facts:
    """What the scenarios saw under one release."""
    return await run(from_npm("huggingface", f"@huggingface/inference@{request.param}"))


async def test_a_text_comes_whole_and_streamed(facts: Facts) -> None:
    assert facts["text"] == {"saw": SAID}
    assert "".join(facts["text_streamed"]["saw"]) == SAID


async def test_a_real_model_writes_one_too(facts: Facts) -> None:
    assert facts["real_text"] == {"saw": True}


async def test_a_chat_comes_whole_and_streamed(facts: Facts) -> None:
    assert facts["chat"] == {"saw": ["The capital of France is Paris.", 8]}
    assert facts["chat_streamed"] == {"saw": "The capital of France is Paris."}


async def test_a_picture_is_a_blob_of_its_type(facts: Facts) -> None:
    assert facts["image"] == {"saw": ["image/png", True]}


async def test_a_sound_without_a_type_is_heard(facts: Facts) -> None:
    assert facts["speech_and_back"] == {"saw": "A Fox runs through the snow."}


async def test_a_sentence_is_embedded(facts: Facts) -> None:
    assert facts["embedding"] == {"saw": 384}


async def test_a_cold_model_answers_in_the_end_though_the_client_does_not_wait(
    facts: Facts,
) -> None:
    assert facts["a_cold_model"] == {"saw": ["warm", True]}


ERRORS = {
    "wrong_key": "Incorrect API key provided",
    "spent_quota": "the key's budget of 1 tokens per day",
    "no_such_model": "The model 'no/such' does not exist",
    "nothing_asked": "token",
    "too_much_asked": "Input validation error: too long",
    "busy": "Model is overloaded",
    "loading": "loading",
}


@pytest.mark.parametrize("scenario", ERRORS)
async def test_a_failure_is_thrown_with_its_message(facts: Facts, scenario: str) -> None:
    kind, message = facts[scenario]["raised"]
    assert kind in ERROR_CLASSES
    assert ERRORS[scenario] in message


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ("failing_late", FAILED),
        ("breaking_off", "ended before"),
        ("chat_breaking_off", "ended before"),
    ],
)
async def test_a_stream_that_fails_throws_after_what_came_before(
    facts: Facts, scenario: str, message: str
) -> None:
    *texts, thrown = facts[scenario]["saw"]
    assert "".join(texts).strip() == "Paris"
    assert message in thrown
