"""What answers of text depend on: all that a client says, but what cannot change them."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from adapters.base import Task
from adapters.errors import DialectError
from gateway.cache.keys import digest
from gateway.errors import BadRequest
from gateway.exchange import Exchange
from gateway.requests import ChatRequest, CompletionRequest
from gateway.tasks.fields_without_effect import WITHOUT_EFFECT
from tests.gateway.usage.text_upstream import PROMPT, Text, exchange

pytestmark = pytest.mark.anyio

FUNCTION = {"type": "function", "function": {"name": "f"}}
CHANGED: dict[str, list[Any]] = {
    "messages": [[{"role": "user", "content": "Hello?"}], [{"role": "system", "content": PROMPT}]],
    "prompt": ["Hello?", ["a", "b"]],
    "temperature": [0.5, 1],
    "top_p": [0.5],
    "frequency_penalty": [0.5],
    "presence_penalty": [0.5],
    "n": [2],
    "stop": ["a", ["a", "b"]],
    "seed": [2, -1],
    "logit_bias": [{"1": 2.0}],
    "best_of": [2],
    "max_tokens": [2],
    "max_completion_tokens": [2],
    "logprobs": [True, 0, 2],
    "top_logprobs": [2],
    "tools": [[FUNCTION]],
    "tool_choice": ["none"],
    "parallel_tool_calls": [False],
    "response_format": [{"type": "text"}],
    "top_k": [2],
    "typical_p": [0.5],
    "repetition_penalty": [2.0],
    "truncate": [2],
    "chat_template_kwargs": [{"enable_thinking": True}],
    "echo": [True],
    "suffix": ["a"],
    "unknown": [1, "a"],  # a field of a server's own
    "index": [1],
    "unseeded": [True],
}
# How the answer is delivered, and what stands for itself in the key.
REPLACED = {"stream", "stream_options", "model"}
FIELDS = [
    (task, name)
    for task, request in ((Task.CHAT, ChatRequest), (Task.COMPLETION, CompletionRequest))
    for name in [*get_type_hints(request), "unknown", "index", "unseeded"]
    if name in CHANGED
]


async def keys(text: Text, asked: Exchange) -> list[str]:
    """Return the keys of all parts."""
    job = await text.prepared(asked)
    return [
        digest(part.recipe(), scope="s", task=asked.task, model="m", target="m")
        for part in job.parts
    ]


def test_every_field_is_known_to_count_or_not_to() -> None:
    known = CHANGED.keys() | REPLACED | WITHOUT_EFFECT
    for request in (ChatRequest, CompletionRequest):
        assert get_type_hints(request).keys() <= known
    assert not CHANGED.keys() & (REPLACED | WITHOUT_EFFECT)


@pytest.mark.parametrize(("task", "name"), FIELDS)
@pytest.mark.parametrize("dialect", ["openai", "hf"])
async def test_each_value_of_a_field_has_a_key_of_its_own(
    text: Text, dialect: str, task: Task, name: str
) -> None:
    values = [None, *CHANGED[name]]
    if task is Task.CHAT and name == "logprobs":
        values = [None, True]
    seen = []
    for value in values:
        body = {"seed": 1} | ({} if value is None else {name: value})
        asked = exchange(dialect, task=task, **body)
        try:
            found = await keys(text, asked)
        except (DialectError, BadRequest):
            continue  # it is never sent
        if name not in asked.ignored:
            seen += found
    assert len(seen) == len(set(seen)) >= 1
    assert dialect == "hf" or len(seen) == len(values)


@pytest.mark.parametrize(
    "said",
    [
        {name: "x"} if name != "prediction" else {name: {"type": "content", "content": "x"}}
        for name in sorted(WITHOUT_EFFECT)
    ]
    + [
        {"stream": True},
        {"stream": False},
        {"stream": True, "stream_options": {"include_usage": True}},
        {"n": 1},
        {"n": 1, "best_of": 1},
        {"logprobs": False},
        {"echo": False},
    ],
)
@pytest.mark.parametrize("dialect", ["openai", "hf", "tgi"])
async def test_what_cannot_change_an_answer_does_not_change_its_key(
    text: Text, dialect: str, said: dict[str, Any]
) -> None:
    plain = exchange(dialect, seed=1)
    assert await keys(text, exchange(dialect, seed=1, **said)) == await keys(text, plain)


async def test_what_an_upstream_is_not_told_does_not_change_a_key(text: Text) -> None:
    asked = exchange("hf", seed=1, presence_penalty=0.5, of_my_own="a")
    assert await keys(text, asked) == await keys(text, exchange("hf", seed=1))
    assert asked.ignored == ("presence_penalty", "of_my_own")


async def test_the_order_of_fields_does_not_change_a_key(text: Text) -> None:
    said = {"seed": 1, "stop": "a", "top_p": 0.5}
    backwards = dict(reversed(said.items()))
    assert await keys(text, exchange("openai", **said)) == await keys(
        text, exchange("openai", **backwards)
    )


async def test_fewer_candidates_than_choices_are_not_what_happens_anyway(text: Text) -> None:
    body = {"task": Task.COMPLETION, "seed": 1, "n": 2}
    assert await keys(text, exchange("openai", **body)) != await keys(
        text, exchange("openai", **body, best_of=1)
    )


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", ["openai", "hf"])
async def test_an_answer_drawn_anew_each_time_has_a_stable_key_that_no_seed_has(
    text: Text, dialect: str, stream: bool
) -> None:
    found = await keys(text, exchange(dialect, n=2, stream=stream))
    assert found == await keys(text, exchange(dialect, n=2, stream=stream))
    assert len(set(found)) == len(found) == (2 if dialect == "hf" else 1)
    seeded = await keys(text, exchange(dialect, n=2, seed=0, stream=stream))
    assert not {*found} & {*seeded}
    job = await text.prepared(exchange(dialect, n=2, stream=stream))
    assert [part.recipe().form["unseeded"] for part in job.parts] == [True] * len(found)


async def test_equal_calls_whose_answers_tell_their_place_have_keys_of_their_own(
    text: Text,
) -> None:
    found = await keys(text, exchange("hf", n=3, temperature=0))
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("said", "is_repeatable"),
    [
        ({}, False),
        ({"seed": 0}, True),
        ({"temperature": 0}, True),
        ({"temperature": 0.1}, False),
        ({"temperature": 1, "seed": 7}, True),
    ],
)
async def test_a_request_is_repeatable_if_it_is_seeded_or_greedy(
    text: Text, said: dict[str, Any], is_repeatable: bool
) -> None:
    for dialect in ("openai", "hf"):
        job = await text.prepared(exchange(dialect, **said))
        assert job.is_repeatable is is_repeatable
