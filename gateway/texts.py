"""The texts in OpenAI's objects: all that a prompt says, and all that an answer does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec

from adapters.base import Json
from gateway.answers import arguments_text

_CALLED = (("function", "arguments"), ("custom", "input"))


def chat_texts(body: Json) -> list[str]:
    """Return what the prompt of a chat says, its tools included."""
    texts = [*chain.from_iterable(map(_texts_of, body["messages"]))]
    if tools := body.get("tools"):
        texts.append(msgspec.json.encode(tools).decode())
    return texts


def completion_texts(body: Json) -> list[str]:
    """Return the prompts of a completion; those sent as tokens say nothing."""
    prompt = body.get("prompt") or ""
    return [prompt] if isinstance(prompt, str) else [row for row in prompt if isinstance(row, str)]


def count_sent_tokens(body: Json) -> int:
    """Return how many tokens of a completion's prompts were sent as such."""
    prompt = body.get("prompt") or ""
    if isinstance(prompt, str) or isinstance(prompt[0], str):
        return 0
    return len(prompt) if isinstance(prompt[0], int) else sum(map(len, prompt))


def answer_text(choice: Json) -> str:
    """Return what a choice says, or its piece in a chunk: reasoning and tool calls are text too."""
    said = choice.get("delta") or choice.get("message")
    if not said:
        return choice.get("text") or ""
    if len(said) == 1 and (text := said.get("content")):
        return text  # type: ignore[no-any-return]  # as nearly every chunk is
    return "".join(_texts_of(said))


def count_images(messages: Sequence[Json]) -> int:
    """Return how many images a chat's messages hold."""
    contents = (message.get("content") for message in messages)
    parts = chain.from_iterable(content for content in contents if isinstance(content, list))
    return sum(part["type"] == "image_url" for part in parts)


def _texts_of(message: Json) -> list[str]:
    """Return the texts of a message or of a delta: whatever a client made up may stand there."""
    content, calls = message.get("content"), message.get("tool_calls")
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    found: list[object] = [content, reasoning, message.get("refusal")]
    if isinstance(content, list):
        found += [part.get("text") for part in content]
    if isinstance(calls, list):
        found += chain.from_iterable(map(_given_to, calls))
    if called := message.get("function_call"):
        found += _given_to({"function": called})
    return [text for text in found if isinstance(text, str)]


def _given_to(call: object) -> Iterator[object]:
    """Yield the names of what is called, and what it is given."""
    for kind, given_as in _CALLED:
        called = call.get(kind) if isinstance(call, dict) else None
        if isinstance(called, dict):
            yield called.get("name")
            yield arguments_text(called[given_as]) if called.get(given_as) else None
