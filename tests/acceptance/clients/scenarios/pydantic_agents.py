"""Agents of pydantic-ai, over chat completions and over responses."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Forecast(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


async def whole(gateway: Any) -> str:
    return (await Agent(_model(gateway)).run("What is the weather?")).output


async def streamed(gateway: Any) -> str:
    async with Agent(_model(gateway)).run_stream("What is the weather?") as told:
        return "".join([text async for text in told.stream_text(delta=True)])


async def structured(gateway: Any) -> Any:
    agent = Agent(_model(gateway), output_type=Forecast)
    return (await agent.run("What is the weather?")).output.model_dump()


async def responses(gateway: Any) -> str:
    model = OpenAIResponsesModel("scripted/assists", provider=_provider(gateway))
    return (await Agent(model).run("What is the weather?")).output


async def responses_structured(gateway: Any) -> Any:
    model = OpenAIResponsesModel("scripted/assists", provider=_provider(gateway))
    agent = Agent(model, output_type=Forecast)
    return (await agent.run("What is the weather?")).output.model_dump()


def _model(gateway: Any) -> OpenAIChatModel:
    return OpenAIChatModel("scripted/assists", provider=_provider(gateway))


def _provider(gateway: Any) -> OpenAIProvider:
    return OpenAIProvider(base_url=f"{gateway.root}/v1", api_key=gateway.key)
