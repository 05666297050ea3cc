"""OpenAI's Agents SDK, which speaks the Responses API unless it is told otherwise."""

from __future__ import annotations

from typing import Any

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(disabled=True)


class Forecast(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


async def responses(gateway: Any) -> str:
    return (await Runner.run(_agent(gateway), "What is the weather?")).final_output


async def responses_streamed(gateway: Any) -> str:
    told = Runner.run_streamed(_agent(gateway), "What is the weather?")
    events = [event async for event in told.stream_events() if event.type == "raw_response_event"]
    deltas = [event.data for event in events if event.data.type == "response.output_text.delta"]
    return "".join(delta.delta for delta in deltas)


async def responses_structured(gateway: Any) -> Any:
    agent = _agent(gateway, output_type=Forecast)
    return (await Runner.run(agent, "What is the weather?")).final_output.model_dump()


async def whole(gateway: Any) -> str:
    model = OpenAIChatCompletionsModel("scripted/assists", _client(gateway))
    return (await Runner.run(Agent("reporter", model=model), "What is the weather?")).final_output


def _agent(gateway: Any, **options: Any) -> Agent[Any]:
    model = OpenAIResponsesModel("scripted/assists", _client(gateway))
    return Agent("reporter", model=model, **options)


def _client(gateway: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway.root}/v1", api_key=gateway.key, max_retries=0)
