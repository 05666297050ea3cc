"""Frameworks that speak to OpenAI get whole, streamed and structured answers here too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from tests.acceptance.clients.commands import from_npm, from_pypi
from tests.acceptance.clients.conftest import Facts, Run
from tests.acceptance.clients.upstream import FORECAST, SAID
from tests.acceptance.sdks import Sdk

pytestmark = pytest.mark.anyio

together = partial(from_pypi, environment="frameworks")
FRAMEWORKS: dict[str, Callable[[], Sdk]] = {
    "langchain-openai": partial(together, "langchain_chat", "langchain-openai"),
    "langchain-huggingface": partial(together, "langchain_endpoint", "langchain-huggingface"),
    "pydantic-ai": partial(together, "pydantic_agents", "pydantic-ai-slim"),
    "openai-agents": partial(together, "openai_agents", "openai-agents"),
    "instructor": partial(from_pypi, "structured", "instructor", environment="instructor"),
    "vercel-ai": partial(
        from_npm,
        "vercel_ai",
        "ai@6.0.326",
        "@ai-sdk/openai@3.0.141",
        "@ai-sdk/openai-compatible@2.0.91",
    ),
}
MEDIA = {"embedding": 384, "image": "image/png", "speech_and_back": "Hello there."}


@pytest.fixture(scope="module", params=FRAMEWORKS)
async def facts(request: pytest.FixtureRequest, run: Run) -> Facts:
    """What the scenarios saw in one framework."""
    return await run(FRAMEWORKS[request.param]())


async def test_every_call_gives_the_text_or_the_object_that_was_asked_for(facts: Facts) -> None:
    objects = ("structured", "structured_by_schema", "tool")
    expected = {name: FORECAST if name.endswith(objects) else SAID for name in facts} | MEDIA
    assert facts == {name: {"saw": expected[name]} for name in facts}
    assert facts
