"""Structured output by instructor, whole and field by field."""

from __future__ import annotations

from typing import Any

import instructor
import openai
from pydantic import BaseModel

MESSAGES = [{"role": "user", "content": "What is the weather in Paris?"}]


class Forecast(BaseModel):
    """The weather of a city."""

    city: str
    degrees: int


def structured(gateway: Any) -> Any:
    asked = _asked(gateway)
    return _client(gateway).chat.completions.create(response_model=Forecast, **asked).model_dump()


def structured_by_schema(gateway: Any) -> Any:
    client = _client(gateway, instructor.Mode.JSON_SCHEMA)
    return client.chat.completions.create(response_model=Forecast, **_asked(gateway)).model_dump()


def streamed_structured(gateway: Any) -> Any:
    client = _client(gateway)
    *_, whole = client.chat.completions.create_partial(response_model=Forecast, **_asked(gateway))
    return whole.model_dump()


def _asked(gateway: Any) -> dict[str, Any]:
    return {"model": "scripted/assists", "messages": MESSAGES, "max_retries": 0}


def _client(gateway: Any, mode: Any = instructor.Mode.TOOLS) -> Any:
    client = openai.OpenAI(base_url=f"{gateway.root}/v1", api_key=gateway.key)
    return instructor.from_openai(client, mode=mode)
