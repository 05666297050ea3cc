"""The Python client of text-generation-inference.

It cannot read streamed chats: it takes their `[DONE]` for JSON, also TGI's own.
"""

from __future__ import annotations

from typing import Any

from text_generation import AsyncClient, Client
from text_generation.errors import GenerationError, IncompleteGenerationError

PROMPT = "The sky is"
MESSAGES = [{"role": "user", "content": "What is the capital of France?"}]


def text(gateway: Any) -> list[Any]:
    told = _client(gateway, "text").generate(PROMPT, max_new_tokens=12)
    return [told.generated_text, len(told.details.tokens), told.details.finish_reason]


def text_streamed(gateway: Any) -> list[Any]:
    events = list(_client(gateway, "text").generate_stream(PROMPT, max_new_tokens=12))
    ending = events[-1]
    return [ending.generated_text, len(events), ending.details.finish_reason]


async def text_async(gateway: Any) -> str:
    client = AsyncClient(gateway.model("text"), headers=_headers(gateway.key), timeout=60)
    return (await client.generate(PROMPT, max_new_tokens=12)).generated_text


async def text_async_streamed(gateway: Any) -> str:
    client = AsyncClient(gateway.model("text"), headers=_headers(gateway.key), timeout=60)
    events = [event async for event in client.generate_stream(PROMPT, max_new_tokens=12)]
    return "".join(event.token.text for event in events if not event.token.special)


def chat(gateway: Any) -> list[Any]:
    answer = _client(gateway, "text").chat(MESSAGES, max_tokens=12, temperature=0.01, seed=1)
    return [answer.choices[0].message.content, answer.usage["completion_tokens"]]


def wrong_key(gateway: Any) -> Any:
    return Client(gateway.model("text"), headers=_headers("hf_wrong")).generate(PROMPT)


def spent_quota(gateway: Any) -> Any:
    return Client(gateway.model("text"), headers=_headers(gateway.spent_key)).generate(PROMPT)


def no_such_model(gateway: Any) -> Any:
    return _client(gateway, "no/such").generate(PROMPT)


def too_much_asked(gateway: Any) -> Any:
    return _client(gateway, "scripted/refuses").generate(PROMPT)


def busy(gateway: Any) -> Any:
    return _client(gateway, "scripted/is_busy").generate(PROMPT)


def busy_streamed(gateway: Any) -> Any:
    return list(_client(gateway, "scripted/is_busy").generate_stream(PROMPT))


def loading(gateway: Any) -> Any:
    return _client(gateway, "scripted/never_loads").generate(PROMPT)


def failing_late(gateway: Any) -> list[str]:
    seen = []
    try:
        for event in _client(gateway, "scripted/fails").generate_stream(PROMPT):
            seen.append(event.token.text)
    except GenerationError as error:
        seen.append(str(error))
    return seen


async def breaking_off_async(gateway: Any) -> list[str]:
    url, headers = gateway.model("scripted/breaks_off"), _headers(gateway.key)
    seen = []
    try:
        async for event in AsyncClient(url, headers=headers).generate_stream(PROMPT):
            seen.append(event.token.text)
    except IncompleteGenerationError as error:
        seen.append(type(error).__name__)
    return seen


def _client(gateway: Any, name: str) -> Client:
    return Client(gateway.model(name), headers=_headers(gateway.key), timeout=60)


def _headers(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}
