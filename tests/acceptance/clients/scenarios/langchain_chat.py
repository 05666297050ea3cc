"""LangChain's chat model of OpenAI, and its embeddings, which are sent as tokens."""

from __future__ import annotations

from typing import Any

from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Forecast(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


def whole(gateway: Any) -> str:
    return _model(gateway).invoke("What is the weather in Paris?").content


def streamed(gateway: Any) -> str:
    return "".join(chunk.content for chunk in _model(gateway).stream("What is the weather?"))


def structured(gateway: Any) -> Any:
    model = _model(gateway).with_structured_output(Forecast)
    return model.invoke("What is the weather in Paris?").model_dump()


def tool(gateway: Any) -> Any:
    [call] = _model(gateway).bind_tools([Forecast]).invoke("What is the weather?").tool_calls
    return call["args"]


def responses(gateway: Any) -> str:
    return _model(gateway, use_responses_api=True).invoke("What is the weather?").text


def _model(gateway: Any, **options: Any) -> ChatOpenAI:
    return ChatOpenAI(
        model="scripted/assists",
        base_url=f"{gateway.root}/v1",
        api_key=gateway.key,
        max_retries=0,
        **options,
    )
