"""`huggingface_hub`: the cookbook's tour with a release of its time, and the newest one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.acceptance.clients.commands import from_pypi, here
from tests.acceptance.clients.conftest import Facts, Run, assert_raised
from tests.acceptance.clients.upstream import FAILED, FORECAST

pytestmark = pytest.mark.anyio

OLD = "0.26.5"
CAPITAL = "The capital of France is Paris."
HEARD = "A Fox runs through the snow."
EMBEDDED = [1, 384]
PAINTED = ["PNG", 256, 256]
TOO_LONG = "Input validation error: too long"
TOO_FEW = "Input validation error: `max_new_tokens` must be strictly positive"


@pytest.fixture(scope="module")
async def tour(run: Run) -> Facts:
    """What the cookbook's calls saw."""
    return await run(from_pypi("cookbook", "huggingface_hub", environment="cookbook"))


@pytest.fixture(scope="module")
async def newest(run: Run) -> Facts:
    """What the newest release saw."""
    return await run(here("hub", "huggingface_hub"))


async def test_the_tour_is_made_with_a_release_of_its_time(tour: Facts) -> None:
    assert tour["release"] == {"saw": OLD}


async def test_a_raw_prompt_is_continued_and_told_with_the_continuation(tour: Facts) -> None:
    text = tour["generate_text"]["saw"]
    assert text.startswith("A HTTP POST request is used to ")
    assert len(text) > 50


async def test_a_template_applied_by_hand_does_what_the_gateway_does(tour: Facts) -> None:
    assert tour["apply_the_template_by_hand"] == {"saw": [CAPITAL, CAPITAL]}


async def test_a_chat_is_streamed(tour: Facts) -> None:
    told = tour["stream_a_chat"]["saw"]
    assert len(told["texts"]) > 5
    assert "".join(told["texts"]) == CAPITAL
    assert told["finish_reason"] == "stop"


async def test_a_schema_in_the_servers_own_form_is_kept_to(tour: Facts) -> None:
    assert json.loads(tour["hold_a_chat_to_a_schema"]["saw"]) == {"city": "Paris"}


async def test_a_picture_is_painted(tour: Facts) -> None:
    assert tour["paint"] == {"saw": PAINTED}


async def test_the_same_prompt_gives_the_same_picture_until_the_cache_is_off(tour: Facts) -> None:
    first, second = tour["paint_the_same_again"]["saw"]
    assert first == second
    assert len({first, *tour["paint_anew_without_the_cache"]["saw"]}) == 3


async def test_a_picture_in_the_prompt_reaches_the_model(tour: Facts) -> None:
    assert tour["ask_about_a_picture"] == {"saw": "1 image/png: What is this?"}


async def test_what_is_spoken_can_be_heard(tour: Facts) -> None:
    assert tour["speak"] == {"saw": [True, HEARD]}


async def test_a_sentence_is_embedded(tour: Facts) -> None:
    assert tour["embed"] == {"saw": EMBEDDED}


async def test_models_can_be_looked_at(tour: Facts) -> None:
    assert tour["look_at_the_service"]["saw"] == {
        "loaded": True,
        "framework": "text-generation-inference",
        "info": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "listed": {"text-to-image": ["dragoman/emoji-flow"]},
    }


async def test_a_cold_model_is_waited_for(tour: Facts) -> None:
    assert tour["wait_for_a_cold_model"] == {"saw": "warm"}


TOUR_ERRORS = {
    "wait_no_longer_than_this": ("InferenceTimeoutError", "Model not loaded on the server"),
    "use_up_the_quota": ("UnknownError", "the key's budget of 1 tokens per day"),
    "show_a_wrong_key": ("UnknownError", "Incorrect API key provided"),
    "ask_for_no_model": ("HfHubHTTPError", "The model 'no/such' does not exist"),
    "ask_for_nothing": ("ValidationError", TOO_FEW),
    "ask_for_too_much": ("ValidationError", TOO_LONG),
    "ask_when_it_is_busy": ("OverloadedError", "Model is overloaded"),
}


@pytest.mark.parametrize("scenario", TOUR_ERRORS)
async def test_the_tour_raises_the_exception_that_applications_catch(
    tour: Facts, scenario: str
) -> None:
    assert_raised(tour, scenario, TOUR_ERRORS[scenario])


@pytest.mark.parametrize("scenario", ["text", "text_async"])
async def test_a_text_is_told_with_its_prompt(newest: Facts, continued: str, scenario: str) -> None:
    assert newest[scenario] == {"saw": f"The sky is{continued}"}


@pytest.mark.parametrize("scenario", ["text_streamed", "text_async_streamed"])
async def test_a_streamed_text_is_that_text(newest: Facts, continued: str, scenario: str) -> None:
    assert newest[scenario] == {"saw": continued}


@pytest.mark.parametrize("scenario", ["text_with_details", "text_streamed_with_details"])
async def test_details_come_whole_and_streamed(
    newest: Facts, continued: str, scenario: str
) -> None:
    assert newest[scenario] == {"saw": [f"The sky is{continued}", 12, "length"]}


CALLS: dict[str, Any] = {
    "chat": [CAPITAL, 8],
    "chat_streamed": CAPITAL,
    "chat_at_v1": CAPITAL,
    "chat_with_tools": ["forecast", json.dumps(FORECAST)],
    "image": PAINTED,
    "speech_and_back": HEARD,
    "embedding": EMBEDDED,
    "endpoint": ["text-generation", True],
    "failing_late": ["Paris", FAILED],
    "breaking_off": ["Paris", "IncompleteGenerationError"],
    "chat_breaking_off": ["", "Paris ", "IncompleteGenerationError"],
}


@pytest.mark.parametrize("scenario", CALLS)
async def test_the_newest_release_gets_what_it_asks_for(newest: Facts, scenario: str) -> None:
    assert newest[scenario] == {"saw": CALLS[scenario]}


async def test_a_schema_that_it_sends_in_its_own_way_is_kept_to(newest: Facts) -> None:
    assert json.loads(newest["chat_by_schema"]["saw"]) == {"city": "Paris"}


ERRORS = {
    "wrong_key": ("UnknownError", "Incorrect API key provided"),
    "spent_quota": ("UnknownError", "the key's budget of 1 tokens per day"),
    "no_such_model": ("UnknownError", "The model 'no/such' does not exist"),
    "no_such_model_in_a_chat": ("HfHubHTTPError", "The model 'no/such' does not exist"),
    "nothing_asked": ("ValidationError", TOO_FEW),
    "too_much_asked": ("ValidationError", TOO_LONG),
    "busy": ("OverloadedError", "Model is overloaded"),
    "loading": ("UnknownError", "loading"),
}


@pytest.mark.parametrize("scenario", ERRORS)
async def test_the_newest_release_raises_the_exception_that_applications_catch(
    newest: Facts, scenario: str
) -> None:
    assert_raised(newest, scenario, ERRORS[scenario])
