"""What a client and an operator say about the cache, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import openai
import pytest

from gateway.cache.keys import pattern, scope_of
from gateway.store import Store
from tests.acceptance.caching.answers import (
    CHAT,
    IMAGES,
    REPEATABLE,
    STREAM,
    anonymous,
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
from tests.gateway.dragoman import run
from tests.gateway.image_route.painting import as_json, http, painted
from tests.metered import Metered
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

BY_TASK = {
    name: REPEATABLE[name]
    for name in (
        "openai-chat",
        "hf-chat-of-three",
        "openai-completion-stream",
        "images",
        "speech",
        "embeddings",
        "transcription",
    )
}


@pytest.mark.parametrize("value", ["0", "false"])
@pytest.mark.parametrize("kind", BY_TASK.values(), ids=BY_TASK)
async def test_past_the_cache_nothing_is_read_nor_written_here_and_at_the_upstream(
    customer: Customer, upstream: Upstream, kind: Kind, value: str
) -> None:
    past = with_headers(kind, x_use_cache=value)
    expected = []
    async with customer.client() as client:
        for asked, of_upstream in ((past, "0"), (kind, None), (past, "0")):
            upstream.rest()
            upstream.play(*visits_of(kind))
            expected.append(status_of(await asked.ask(client)))
            assert len(upstream.visits) == len(visits_of(kind))
            assert {visit.headers.get("x-use-cache") for visit in upstream.visits} == {of_upstream}
    assert expected == ["bypass", "miss", "bypass"]


@pytest.mark.parametrize(
    ("headers", "status", "kept"),
    [
        ({"x_use_cache": "0"}, "bypass", b"answer 1"),
        ({"cache_control": "no-store"}, "bypass", b"answer 1"),
        ({"cache_control": "no-cache"}, "miss", b"answer 2"),
        ({"cache_control": "No-Cache, private"}, "miss", b"answer 2"),
    ],
)
@pytest.mark.parametrize("kind", [CHAT, STREAM], ids=["whole", "stream"])
async def test_who_wants_no_kept_answer_gets_another_which_only_no_cache_keeps(
    customer: Customer,
    upstream: Upstream,
    kind: Kind,
    headers: dict[str, str],
    status: str,
    kept: bytes,
) -> None:
    counting_upstream(upstream)
    async with customer.client() as client:
        answers = [await one.ask(client) for one in (kind, with_headers(kind, **headers), kind)]
    assert [status_of(answer) for answer in answers] == ["miss", status, "hit"]
    assert b"answer 1" in answers[0].content
    assert b"answer 2" in answers[1].content
    assert kept in answers[2].content


async def test_no_store_is_between_the_client_and_us(
    customer: Customer, upstream: Upstream
) -> None:
    upstream.play(*visits_of(CHAT))
    async with customer.client() as client:
        await with_headers(CHAT, cache_control="no-store").ask(client)
    [visit] = upstream.visits
    assert "x-use-cache" not in visit.headers


@pytest.mark.parametrize("kind", BY_TASK.values(), ids=BY_TASK)
async def test_only_if_cached_asks_nobody(
    customer: Customer, upstream: Upstream, kind: Kind
) -> None:
    upstream.play(*visits_of(kind))
    cached = with_headers(kind, cache_control="only-if-cached")
    async with customer.client() as client:
        refused = await cached.ask(client)
        assert upstream.visits == []
        assert status_of(await kind.ask(client)) == "miss"
        assert status_of(await cached.ask(client)) == "hit"
    assert (refused.status_code, refused.json()["error"]["code"]) == (504, "not_cached")
    assert refused.headers["x-should-retry"] == "false"
    assert len(await customer.records()) == 2  # what was refused was not admitted


async def test_the_sdk_does_not_retry_what_is_not_cached(customer: Customer) -> None:
    asked = []

    async def note(request: httpx.Request) -> None:
        asked.append(request)

    watched: Any = httpx.AsyncClient(event_hooks={"request": [note]}, trust_env=False)
    async with openai.AsyncOpenAI(
        api_key=customer.key, base_url=customer.metered.base_url, http_client=watched
    ) as sdk:
        assert sdk.max_retries == 2
        with pytest.raises(openai.InternalServerError) as caught:
            await sdk.chat.completions.create(
                **CHAT.request["json"], extra_headers={"cache-control": "only-if-cached"}
            )
    assert (caught.value.status_code, caught.value.code) == (504, "not_cached")
    assert len(asked) == 1


async def test_what_is_older_than_max_age_is_asked_for_again(
    customer: Customer, upstream: Upstream
) -> None:
    counting_upstream(upstream)
    async with customer.client() as client:
        await CHAT.ask(client)
        hit = await customer.metered.until(
            partial(CHAT.ask, client), lambda answer: int(answer.headers.get("age", 0)) >= 1
        )
        assert status_of(hit) == "hit"
        young = await with_headers(CHAT, cache_control="max-age=3600").ask(client)
        old = await with_headers(CHAT, cache_control="max-age=0").ask(client)
        replaced = await CHAT.ask(client)
    assert [status_of(answer) for answer in (young, old, replaced)] == ["hit", "miss", "hit"]
    assert b"answer 1" in young.content
    assert b"answer 2" in old.content
    assert b"answer 2" in replaced.content


def weak(etag: str) -> str:
    return etag


def bare(etag: str) -> str:
    return etag.removeprefix("W/")


def in_a_list(etag: str) -> str:
    return f'"other", {etag}'


def any_(etag: str) -> str:
    return "*"


@pytest.mark.parametrize("spelled", [weak, bare, in_a_list, any_])
@pytest.mark.parametrize("kind", [CHAT, STREAM, IMAGES], ids=["whole", "stream", "images"])
async def test_who_has_the_answer_is_told_so_without_a_body(
    customer: Customer, upstream: Upstream, kind: Kind, spelled: Any
) -> None:
    upstream.play(*visits_of(kind))
    async with customer.client() as client:
        miss = await kind.ask(client)
        etag = miss.headers["etag"]
        same = await with_headers(kind, if_none_match=spelled(etag)).ask(client)
    assert (same.status_code, same.content) == (304, b"")
    assert (same.headers["etag"], same.headers["x-dragoman-cache"]) == (etag, "hit")
    assert int(same.headers["age"]) >= 0
    assert len(upstream.visits) == len(visits_of(kind))
    records = await customer.records()
    assert [(one["status"], one["cached"]) for one in records] == [("ok", False), ("ok", True)]


async def test_who_has_another_answer_gets_this_one(customer: Customer, upstream: Upstream) -> None:
    counting_upstream(upstream)
    async with customer.client() as client:
        first = (await CHAT.ask(client)).headers["etag"]
        has_first = with_headers(CHAT, if_none_match=first)
        assert (await has_first.ask(client)).status_code == 304
        anew = await with_headers(CHAT, if_none_match=first, cache_control="no-cache").ask(client)
        assert status_of(anew) == "miss"
        later = await has_first.ask(client)
    assert status_of(later) == "hit"
    assert later.headers["etag"] == anew.headers["etag"] != first


async def test_each_form_of_an_answer_has_an_etag_of_its_own(
    customer: Customer, upstream: Upstream
) -> None:
    forms = {
        "whole": CHAT,
        "stream": CHAT.having(stream=True),
        "with usage": CHAT.having(stream=True, stream_options={"include_usage": True}),
        "picture": IMAGES,
        "address": IMAGES.having(response_format="url"),
        "pictures as events": IMAGES.having(stream=True),
    }
    async with customer.client() as client:
        for kind in (CHAT, IMAGES):
            upstream.rest()
            upstream.play(*visits_of(kind))
            await kind.ask(client)
        upstream.rest()
        answers = {name: await kind.ask(client) for name, kind in forms.items()}
        etags = {name: answer.headers["etag"] for name, answer in answers.items()}
        again = {name: (await kind.ask(client)).headers["etag"] for name, kind in forms.items()}
    assert {status_of(answer) for answer in answers.values()} == {"hit"}
    assert len(set(etags.values())) == len(forms)
    assert etags == again


async def kept_keys(cache: Store, customer: Customer, model: str) -> list[bytes]:
    scope = scope_of("key", customer.key_id, customer.team)
    keys: list[bytes] = await cache.call("KEYS", pattern(model, scope))
    return keys


@asynccontextmanager
async def cache_of(metered: Metered) -> AsyncIterator[Store]:
    store = Store(metered.stores.cache_url, timeout_seconds=10)
    try:
        yield store
    finally:
        await store.aclose()


@pytest.mark.parametrize(("model", "most_ms"), [("text", 86_400_000), ("fleeting", 1_000)])
async def test_an_answer_is_kept_as_long_as_its_model_says(
    customer: Customer, upstream: Upstream, model: str, most_ms: int
) -> None:
    counting_upstream(upstream)
    kind = CHAT.having(model=f"openai/{model}")
    async with customer.client() as client, cache_of(customer.metered) as cache:
        await kind.ask(client)
        [key] = await kept_keys(cache, customer, f"openai/{model}") or [b"expired"]
        left_ms = await cache.call("PTTL", key)
        assert left_ms <= most_ms
        if most_ms > 1000:
            assert left_ms > most_ms - 60_000
            assert status_of(await kind.ask(client)) == "hit"
            return
        await customer.metered.until(partial(cache.call, "PTTL", key), lambda left: left == -2)
        assert status_of(await kind.ask(client)) == "miss"


async def test_a_model_whose_answers_are_not_kept_is_asked_each_time(
    customer: Customer, upstream: Upstream
) -> None:
    counting_upstream(upstream)
    kind = CHAT.having(model="openai/never-kept")
    async with customer.client() as client:
        answers = [await kind.ask(client), await kind.ask(client)]
    assert [status_of(answer) for answer in answers] == ["bypass", "bypass"]
    assert len(upstream.visits) == 2


async def test_the_native_apis_switch_brings_another_picture(
    gateway_with: StartGateway, upstream: Upstream
) -> None:
    customer = await Customer.of(await gateway_with(unseeded=True, charge="full"))
    seeds = random.Random(7)

    async def draw(visit: Visit) -> None:
        assert "seed" not in visit.body["parameters"]
        await visit.send(http(painted(seeds.randrange(2**16))))

    upstream.play(draw)
    fox = KINDS["images"].having(n=1)
    async with customer.client() as client:
        first = await fox.ask(client)
        again = await fox.ask(client)
        assert len(upstream.visits) == 1
        another = await with_headers(fox, x_use_cache="0").ask(client)
    assert len(upstream.visits) == 2
    assert [status_of(one) for one in (first, again, another)] == ["miss", "hit", "bypass"]
    assert anonymous(again.content) == anonymous(first.content)
    assert anonymous(another.content) != anonymous(first.content)


REMEMBERED_SECONDS = 0.5
GATED = {"error": "Access to model org/m is restricted."}
MISSING = {"error": "Model org/m does not exist"}


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [(CHAT, 404, MISSING), (IMAGES.having(n=1), 403, GATED)],
    ids=["missing", "gated"],
)
async def test_what_an_upstream_does_not_have_is_asked_for_once(
    gateway_with: StartGateway, upstream: Upstream, kind: Kind, status: int, words: Json
) -> None:
    customer = await Customer.of(await gateway_with(refusal_seconds=3600))
    upstream.play(*visits_of(kind)[:1], as_json(words, status=status))
    async with customer.client() as client:
        assert status_of(await kind.ask(client)) == "miss"
        first = await kind.having(seed=8).ask(client)
        assert len(upstream.visits) == 2
        second = await kind.having(seed=9).ask(client)
        hit = await kind.ask(client)
        past = await with_headers(kind, x_use_cache="0").ask(client)
        assert len(upstream.visits) == 2
    assert first.status_code >= 400
    assert status_of(hit) == "hit"
    for later in (second, past):
        assert (later.status_code, later.json()) == (first.status_code, first.json())


async def test_a_refusal_is_of_one_model_and_one_task(
    gateway_with: StartGateway, upstream: Upstream
) -> None:
    customer = await Customer.of(await gateway_with(refusal_seconds=3600))
    gone = CHAT.having(model="openai/fleeting")
    completion = REPEATABLE["openai-completion-stream"].having(model="openai/fleeting")
    async with customer.client() as client:
        upstream.play(as_json(MISSING, status=404))
        assert (await gone.ask(client)).status_code == 404
        upstream.rest()
        upstream.play(*visits_of(completion))
        assert status_of(await completion.ask(client)) == "miss"
        upstream.rest()
        upstream.play(*visits_of(CHAT))
        assert (await CHAT.having(model="openai/never-kept").ask(client)).status_code == 200
        assert (await gone.ask(client)).status_code == 404
        assert len(upstream.visits) == 1


async def test_a_refusal_is_forgotten_in_time(
    gateway_with: StartGateway, upstream: Upstream
) -> None:
    customer = await Customer.of(await gateway_with(refusal_seconds=REMEMBERED_SECONDS))
    upstream.play(as_json(MISSING, status=404), *visits_of(CHAT))
    began = time.monotonic()
    async with customer.client() as client:
        answer = await customer.metered.until(
            partial(CHAT.ask, client), lambda answer: answer.status_code == 200
        )
    assert time.monotonic() - began >= REMEMBERED_SECONDS
    assert status_of(answer) == "miss"
    assert len(upstream.visits) == 2


@pytest.mark.parametrize("status", [401, 429, 500, 503])
async def test_what_may_pass_is_asked_for_again(
    customer: Customer, upstream: Upstream, status: int
) -> None:
    upstream.play(as_json({"error": "No."}, status=status))
    async with customer.client() as client:
        answers = [await CHAT.ask(client) for _ in range(2)]
    assert all(answer.status_code >= 400 for answer in answers)
    assert len(upstream.visits) == 2


async def test_the_command_line_counts_what_happened(
    gateway_with: StartGateway, upstream: Upstream
) -> None:
    metered = await gateway_with(ttl_seconds=600)
    customer = await Customer.of(metered, concurrency=9)
    go_on = asyncio.Event()

    async def hold(visit: Visit) -> None:
        await go_on.wait()
        await visit.send(said("Hi"))

    upstream.play(said("Hi"), said("Hi"), hold)
    async with customer.client() as client:
        for asked in (CHAT, CHAT, CHAT, with_headers(CHAT, x_use_cache="0")):
            await asked.ask(client)
        other = CHAT.having(seed=8)
        async with asking(client, other) as leader, asking(client, other) as follower:
            await metered.until(customer.leases, lambda held: held == 2)
            go_on.set()
            await asyncio.gather(leader.ends(), follower.ends())
    expected = {"hits": 2, "misses": 2, "shared": 1, "bypassed": 1, "stored": 2}
    told = await metered.until(
        partial(_told, metered, "stats"), lambda found: found["totals"]["stored"] == 2
    )
    assert told["totals"] == {**expected, "too_large": 0, "corrupt": 0, "errors": 0}
    [held] = told["models"]
    assert (held["model"], held["answers"]) == ("openai/text", 2)
    assert held["bytes"] > 0
    assert await _told(metered, "clear") == {"answers": 2, "files": 0}
    async with customer.client() as client:
        assert status_of(await CHAT.ask(client)) == "miss"


async def _told(metered: Metered, *command: str) -> Any:
    """Return the JSON that a command of `dragoman cache` prints."""
    options = ("--json", "--data-dir", metered.data_dir)
    result = await asyncio.to_thread(run, "cache", *command, *options)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)
