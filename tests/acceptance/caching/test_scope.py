"""Who shares an answer with whom, and which requests are one."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from typing import Any, get_type_hints

import httpx
import pytest

from gateway.requests import ChatRequest
from tests.acceptance.caching.answers import (
    CHAT,
    REPEATABLE,
    STREAM,
    counting_upstream,
    said,
    status_of,
    visits_of,
    with_headers,
)
from tests.acceptance.caching.conftest import StartGateway
from tests.acceptance.metering.customer import Customer
from tests.acceptance.metering.exchange_kinds import KINDS, Json, Kind
from tests.acceptance.metering.pace import asking
from tests.metered import Metered
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

RED, BLUE, NO_TEAM = "red", "blue", None
SHARING = [
    ("key", RED, RED, False),
    ("key", RED, BLUE, False),
    ("key", NO_TEAM, NO_TEAM, False),
    ("team", RED, RED, True),
    ("team", RED, BLUE, False),
    ("team", RED, NO_TEAM, False),
    ("team", NO_TEAM, NO_TEAM, False),
    ("global", RED, RED, True),
    ("global", RED, BLUE, True),
    ("global", NO_TEAM, RED, True),
    ("global", NO_TEAM, NO_TEAM, True),
]
BY_SCOPE = pytest.mark.parametrize(("scope", "one", "other", "shares"), SHARING)


async def keys_of(metered: Metered, *teams: str | None) -> list[str]:
    """Return a key of each of these teams, which nobody else uses."""
    own = secrets.token_hex(4)
    return [await metered.new_key(team=f"{team}-{own}" if team else None) for team in teams]


async def having_scope(gateway_with: StartGateway, scope: str) -> Metered:
    return await (gateway_with() if scope == "key" else gateway_with(scope=scope))


def own(kind: Kind) -> Kind:
    """Return `kind` with a seed that no other test uses, as there may be no other bounds."""
    return kind.having(seed=secrets.randbelow(2**60))


@BY_SCOPE
@pytest.mark.parametrize("kind", [CHAT, STREAM], ids=["whole", "stream"])
async def test_an_answer_is_kept_for_whom_the_scope_says(
    gateway_with: StartGateway,
    upstream: Upstream,
    kind: Kind,
    scope: str,
    one: str | None,
    other: str | None,
    shares: bool,
) -> None:
    metered = await having_scope(gateway_with, scope)
    counter, asked = counting_upstream(upstream), own(kind)
    first, second = await keys_of(metered, one, other)
    async with metered.client(first) as client:
        miss = await asked.ask(client)
    async with metered.client(second) as client:
        probe = await with_headers(asked, cache_control="only-if-cached").ask(client)
        known = await with_headers(asked, if_none_match=miss.headers["etag"]).ask(client)
    assert status_of(miss) == "miss"
    assert probe.status_code == (200 if shares else 504)
    assert known.status_code == (304 if shares else 200)
    assert counter.asked == (1 if shares else 2)
    async with metered.client(first) as client:
        assert b"answer 1" in (await asked.ask(client)).content


@BY_SCOPE
async def test_an_answer_under_way_is_shared_by_whom_the_scope_says(
    gateway_with: StartGateway,
    upstream: Upstream,
    scope: str,
    one: str | None,
    other: str | None,
    shares: bool,
) -> None:
    metered = await having_scope(gateway_with, scope)
    asked = own(STREAM)
    first, second = await keys_of(metered, one, other)

    async def begin(visit: Visit) -> None:
        await visit.send(STREAM.steps[0][1])
        await visit.left.wait()

    upstream.play(begin)
    async with (
        metered.client(first) as client,
        metered.client(second) as another,
        asking(client, asked) as reading,
    ):
        await reading.shows(1)
        async with asking(another, asked) as beside:
            await beside.shows(1)
            assert len(upstream.visits) == (1 if shares else 2)
            assert beside.headers["x-dragoman-cache"] == ("shared" if shares else "miss")


@pytest.mark.parametrize("name", KINDS)
async def test_two_keys_share_nothing_of_any_kind(
    metered: Metered, upstream: Upstream, name: str
) -> None:
    kind = REPEATABLE[name]
    for key in await keys_of(metered, RED, RED):
        upstream.rest()
        upstream.play(*visits_of(kind))
        async with metered.client(key) as client:
            assert status_of(await kind.ask(client)) == "miss"
        assert len(upstream.visits) == len(visits_of(kind))


def tool(name: str, **more: Any) -> Json:
    return {"type": "function", "function": {"name": name, "parameters": {}, **more}}


def user(text: str, **more: Any) -> Json:
    return {"role": "user", "content": text, **more}


BASE: Json = {
    "model": "openai/text",
    "messages": [{"role": "system", "content": "Be brief."}, user("Hi", x=1, y=2), user("you")],
    "seed": 7,
    "temperature": 0.5,
    "logprobs": True,
    "tools": [tool("look"), tool("hear")],
}
SCHEMA = {"type": "object", "properties": {"a": {}, "b": {}}}
SCHEMA_TURNED = {"type": "object", "properties": {"b": {}, "a": {}}}

# Other values of each field: of all these requests no two may have one answer.
CHANGING: Mapping[str, list[Any]] = {
    "model": ["openai/other"],
    "messages": [
        [user("Hi"), user("you")],
        [{"role": "system", "content": "Be brief."}, user("you"), user("Hi")],
        [{"role": "developer", "content": "Be brief."}, user("Hi"), user("you")],
        [{"role": "system", "content": "Be brief."}, user("hi"), user("you")],
        [{"role": "system", "content": "Be brief."}, user("Hi "), user("you")],
        [{"role": "system", "content": "Be brief."}, user("Hi", name="Ann"), user("you")],
        [{"role": "system", "content": "Be brief."}, user("Hiyou")],
        [{"role": "system", "content": "Be brief."}, user("H\u00ed"), user("you")],
        [{"role": "system", "content": "Be brief."}, user("Hi\u0301"), user("you")],
    ],
    "seed": [8, -7, 7 + 2**32],
    "temperature": [0, 0.25, 0.5000001, 1, None],
    "top_p": [0.5],
    "top_k": [5],
    "typical_p": [0.5],
    "frequency_penalty": [0.5],
    "presence_penalty": [0.5],
    "repetition_penalty": [1.5],
    "logit_bias": [{"5": 1}, {"5": 2}],
    "n": [2, 3],
    "best_of": [2],
    "max_tokens": [5, 6],
    "max_completion_tokens": [7],
    "stop": ["x", ["x", "y"], ["y", "x"]],
    "truncate": [100],
    "logprobs": [False],
    "top_logprobs": [2],
    "tools": [
        [tool("look")],
        [tool("hear"), tool("look")],
        [tool("look", description="It looks."), tool("hear")],
        [tool("look", strict=True), tool("hear")],
    ],
    "tool_choice": ["none", "required", {"type": "function", "function": {"name": "look"}}],
    "parallel_tool_calls": [False],
    "response_format": [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}},
        {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA_TURNED}},
    ],
    "chat_template_kwargs": [{"enable_thinking": True}, {"enable_thinking": 1}],
    # What is not known here goes to the upstream, which may know it.
    "reasoning_effort": ["low", "high"],
    "guided_regex": ["a+"],
    "verbosity": ["low"],
    "modalities": [["text"]],
    "something_new": [1, 2, True, "1", []],
}
# Values that say nothing new: all these requests have one answer.
NOT_CHANGING: Mapping[str, list[Any]] = {
    "stream": [True, False],
    "stream_options": [{"include_usage": True}],
    "user": ["someone"],
    "metadata": [{"run": "1"}],
    "store": [True],
    "service_tier": ["flex"],
    "safety_identifier": ["s"],
    "prompt_cache_key": ["k"],
    "prompt_cache_options": [{"ttl": "1h"}],
    "prompt_cache_retention": ["24h"],
    "prediction": [{"type": "content", "content": "Hi"}],
    "n": [1, None],
    "top_p": [None],
    "something_new": [None],
}


def test_every_field_of_a_chat_is_walked() -> None:
    assert set(get_type_hints(ChatRequest)) <= CHANGING.keys() | NOT_CHANGING.keys()


async def test_requests_that_could_be_answered_otherwise_share_nothing(
    customer: Customer, upstream: Upstream
) -> None:
    counter = counting_upstream(upstream)
    changed = [BASE | {name: value} for name, values in CHANGING.items() for value in values]
    async with customer.client() as client:
        for asked in (1, 2):
            answers = [await post(client, json.dumps(body)) for body in (BASE, *changed)]
            statuses = {status_of(answer) for answer in answers}
            assert statuses == {"miss" if asked == 1 else "hit"}
    assert counter.asked == len(changed) + 1
    texts = {answer.json()["choices"][0]["message"]["content"] for answer in answers}
    assert len(texts) == len(changed) + 1


async def test_requests_that_say_the_same_are_one(customer: Customer, upstream: Upstream) -> None:
    counter = counting_upstream(upstream)
    said_again = [
        json.dumps(BASE | {name: value})
        for name, values in NOT_CHANGING.items()
        for value in values
    ]
    turned = {name: BASE[name] for name in reversed(BASE)}
    turned["messages"] = [dict(reversed(one.items())) for one in BASE["messages"]]
    respelled = [
        json.dumps(turned),
        json.dumps(BASE, indent=3),
        json.dumps(BASE).replace("0.5", "50e-2").replace('"Hi"', '"\\u0048i"'),
        json.dumps(BASE).replace('"seed": 7', '"seed": 7, "stream": null'),
    ]
    async with customer.client() as client:
        assert status_of(await post(client, json.dumps(BASE))) == "miss"
        for text in said_again + respelled:
            assert status_of(await post(client, text)) == "hit", text
    assert counter.asked == 1


async def post(client: httpx.AsyncClient, text: str) -> httpx.Response:
    headers = {"content-type": "application/json"}
    return await client.post("/chat/completions", content=text, headers=headers)


async def test_a_model_has_its_answers_under_all_its_names(
    customer: Customer, upstream: Upstream
) -> None:
    upstream.play(said("Hi"))
    async with customer.client() as client:
        by_id = await CHAT.having(model="openai/other").ask(client)
        by_alias = await CHAT.having(model="alias").ask(client)
    assert (status_of(by_id), status_of(by_alias)) == ("miss", "hit")
    assert (by_id.json()["model"], by_alias.json()["model"]) == ("openai/other", "alias")
    assert by_id.headers["etag"] != by_alias.headers["etag"]
