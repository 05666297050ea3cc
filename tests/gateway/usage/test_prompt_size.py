"""How large prompts are: upper bounds beforehand, counts afterwards."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Request, Task
from gateway.counting import guess_tokens, most_tokens_of
from gateway.prompt_size import PromptSize

pytestmark = pytest.mark.anyio

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


def words(text: str) -> int:
    return len(text.split())


def chat(*messages: dict[str, Any], **body: Any) -> Request:
    return Request(task=Task.CHAT, model="m", body={"messages": list(messages), **body})


def completion(prompt: Any) -> Request:
    return Request(task=Task.COMPLETION, model="m", body={"prompt": prompt})


@given(st.text())
def test_a_guess_is_never_more_than_the_bound(text: str) -> None:
    assert guess_tokens(len(text)) <= most_tokens_of(text)


@pytest.mark.parametrize(
    ("text", "most"), [("", 0), ("a", 1), ("abc", 1), ("abcd", 2), ("日本", 2), ("\ud800", 1)]
)
def test_the_bound_is_a_third_of_the_bytes(text: str, most: int) -> None:
    assert most_tokens_of(text) == most


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ({"role": "user", "content": "a b c"}, 3),
        ({"role": "user", "content": [{"type": "text", "text": "a b"}, IMAGE]}, 2),
        ({"role": "assistant", "content": None, "refusal": "a b"}, 2),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "a"}}]}, 2),
        ({"role": "assistant", "tool_calls": [{"custom": {"name": "f", "input": "a b"}}]}, 3),
        ({"role": "assistant", "content": None, "function_call": {"name": "f"}}, 1),
        ({"role": "user", "content": "a", "tool_calls": True, "refusal": 7}, 1),
    ],
)
async def test_all_that_a_message_says_counts(message: dict[str, Any], said: int) -> None:
    assert await PromptSize(chat(message), count=words).tokens() == [said]


async def test_tools_are_part_of_the_prompt() -> None:
    tool = {"type": "function", "function": {"name": "f", "description": "finds a thing"}}
    message = {"role": "user", "content": "a"}
    assert await PromptSize(chat(message, tools=[tool]), count=words).tokens() == [4]


async def test_an_estimate_leaves_room_for_what_a_template_puts_around_messages() -> None:
    said = {"role": "user", "content": ""}
    sizes = [
        await PromptSize(chat(*[said] * number), count=words).at_most(exactly=True)
        for number in (1, 11)
    ]
    assert sizes[1] - sizes[0] >= 50  # ChatML has five tokens around each


@pytest.mark.parametrize("exactly", [True, False])
async def test_an_image_is_estimated_as_a_thousand_tokens(exactly: bool) -> None:
    text = {"type": "text", "text": "a"}
    sizes = [
        await PromptSize(chat({"role": "user", "content": content}), count=words).at_most(
            exactly=exactly
        )
        for content in ([text], [text, IMAGE, IMAGE])
    ]
    assert sizes[1] - sizes[0] == 2000
    rendered = Request(
        task=Task.CHAT, model="m", body={"messages": []}, prompts=("a",), images=("data:",)
    )
    assert 1000 < await PromptSize(rendered, count=words).at_most(exactly=exactly) < 1010


@pytest.mark.parametrize(
    ("prompt", "tokens"),
    [("a b", 2), (["a b", "c"], 3), ([5, 6, 7], 3), ([[5, 6], [7]], 3)],
)
@pytest.mark.parametrize("count", [words, None])
async def test_a_completion_has_its_texts_or_the_tokens_that_were_sent(
    prompt: Any, tokens: int, count: Any
) -> None:
    size = PromptSize(completion(prompt), count=count)
    [counted] = await size.tokens()
    assert counted == tokens or not count
    assert await size.at_most(exactly=False) >= counted > 0


async def test_the_tokenizer_is_asked_for_an_estimate_only_if_it_is_worth_it() -> None:
    asked: list[str] = []

    def count(text: str) -> int:
        asked.append(text)
        return words(text)

    size = PromptSize(
        Request(task=Task.COMPLETION, model="m", body={}, prompts=("a b", "c")), count=count
    )
    await size.at_most(exactly=False)
    assert asked == []
    assert await size.at_most(exactly=True) == 3
    assert await size.tokens() == [2, 1]
    assert asked == ["a b", "c"]
