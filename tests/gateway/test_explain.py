"""`POST /v1/explain`: what it tells is what the relay does, and it does nothing itself."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from decimal import Decimal
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from gateway.config import Settings
from gateway.store import Store
from tests.gateway.image_route.painting import http, painted
from tests.gateway.running import TOKENIZER, Gateway, say_hi, started_gateway
from tests.gateway_fixture import CREDENTIAL, running_gateway
from tests.metered import Metered, metered_gateway
from tests.scripted_upstream import Player, Upstream, Visit

pytestmark = pytest.mark.anyio

HELLO = [{"role": "user", "content": "Hello"}]
PICTURE = base64.b64encode(painted(7, size=(64, 64))).decode()
SEEN = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is it?"},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
        ],
    }
]
REFUSED = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"
ROUTES = {
    "chat": "/chat/completions",
    "completion": "/completions",
    "image": "/images/generations",
    "speech": "/audio/speech",
    "embedding": "/embeddings",
    "response": "/responses",
}
BODIES: dict[str, dict[str, Any]] = {
    "chat": {"messages": HELLO, "seed": 3, "temperature": 0.70, "user": "someone"},
    "completion": {"prompt": "Once é\u2028", "seed": 2**53 + 1, "stream": True},
    "image": {"prompt": "a fox", "seed": 3, "size": "64x64"},
    "speech": {"input": "Hello there.", "voice": "alloy"},
    "embedding": {"input": ["one", "two"]},
    "response": {"input": "Hello", "instructions": "Be brief.", "seed": 3, "store": True},
}
OF_CHAT_MODELS = ("completion", "response")
CASES = [(task, dialect) for task in BODIES for dialect in ("openai", "hf")]


class Sent(msgspec.Struct):
    """One request as it is explained; `body` as its bytes are."""

    method: str
    url: str
    headers: dict[str, str]
    body: msgspec.Raw


class Told(msgspec.Struct):
    """What of an explanation is compared byte for byte."""

    requests: list[Sent]


def settings(url: str, **options: Any) -> Settings:
    """Return settings with a model `{task}/{dialect}` for each case, and priced chats."""
    cases = [case for case in CASES if case[0] not in OF_CHAT_MODELS]
    return Settings.model_validate(
        {
            "upstreams": [
                {"name": name, "dialect": name, "base_url": url, "api_key_env": "UPSTREAM_KEY"}
                for name in ("openai", "hf")
            ],
            "models": [
                {
                    "id": f"{task}/{dialect}",
                    "task": task,
                    "tokenizer": str(TOKENIZER) if task == "chat" else None,
                    "vision": task == "chat",
                    "image_placeholder": "<image>" if task == "chat" else None,
                    "targets": [{"upstream": dialect, "model": f"their/{task}"}],
                    "price": {"input_usd_per_million": 2, "output_usd_per_million": 30},
                }
                for task, dialect in cases
            ],
            **options,
        }
    )


def body_of(task: str, dialect: str, **fields: Any) -> dict[str, Any]:
    model = "chat" if task in OF_CHAT_MODELS else task
    return {"model": f"{model}/{dialect}", **BODIES[task], **fields}


@pytest.fixture(scope="module", autouse=True)
def upstream_key() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPSTREAM_KEY", CREDENTIAL)
        yield


@pytest.fixture(scope="module")
async def refusing() -> AsyncIterator[Upstream]:
    """An upstream that refuses all that it is sent."""

    async def refuse(visit: Visit) -> None:
        await visit.send(REFUSED)

    async with Upstream(refuse) as running:
        yield running


@pytest.fixture
def upstream(refusing: Upstream) -> Upstream:
    """The same, visited by nobody yet."""
    refusing.visits.clear()
    return refusing


@pytest.fixture(scope="module")
async def client(
    refusing: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    folder = tmp_path_factory.mktemp("data")
    async with (
        running_gateway(settings(refusing.url), folder) as gateway,
        httpx.AsyncClient(
            base_url=gateway.base_url, headers=gateway.headers, trust_env=False, timeout=60
        ) as made,
    ):
        yield made


@asynccontextmanager
async def metered(player: Player, folder: Path) -> AsyncIterator[tuple[Metered, Upstream]]:
    """Run a metered gateway before an upstream that plays `player`."""
    async with (
        Upstream(player) as upstream,
        metered_gateway(settings(upstream.url), folder) as running,
    ):
        yield running, upstream


async def explained(client: httpx.AsyncClient, body: Any, **options: Any) -> dict[str, Any]:
    """Return an explanation, which must be one."""
    answer = await client.post("/explain", json=body, **options)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


@pytest.mark.parametrize(("task", "dialect"), CASES)
async def test_what_it_shows_is_what_the_upstream_then_gets(
    task: str, dialect: str, upstream: Upstream, client: httpx.AsyncClient
) -> None:
    body = body_of(task, dialect)
    query = {"route": f"/v1{ROUTES[task]}"}
    answer = await client.post("/explain", json=body, params=query)
    assert answer.status_code == 200, answer.text
    [shown] = msgspec.json.decode(answer.content, type=Told).requests
    assert not upstream.visits

    await client.post(ROUTES[task], json=body)

    [visit] = upstream.visits
    head, _, sent = visit.raw.partition(b"\r\n\r\n")
    assert bytes(shown.body) == sent
    assert (shown.method, shown.url) == (visit.method, upstream.url + visit.path)
    ours = {name: value for name, value in visit.headers.items() if name != "connection"}
    assert shown.headers | {"authorization": f"Bearer {CREDENTIAL}"} == ours
    assert CREDENTIAL.encode() in head
    assert CREDENTIAL not in answer.text


async def test_each_call_of_a_request_is_shown(client: httpx.AsyncClient) -> None:
    told = await explained(client, body_of("completion", "hf", prompt=["one", "two"], n=2))

    seeds = [
        (sent["body"]["inputs"], sent["body"]["parameters"]["seed"] - 2**53)
        for sent in told["requests"]
    ]
    assert seeds == [("one", 1), ("one", 2), ("two", 3), ("two", 4)]
    assert len({answer["key"] for answer in told["cache"]["answers"]}) == 4


@pytest.mark.parametrize("task", list(BODIES))
async def test_the_task_follows_from_body_and_model(task: str, client: httpx.AsyncClient) -> None:
    told = await explained(client, body_of(task, "hf"))

    assert told["task"] == ("chat" if task == "response" else task)
    assert told["object"] == "explanation"
    assert told["model"] == body_of(task, "hf")["model"]


async def test_a_named_route_decides_what_a_body_is(client: httpx.AsyncClient) -> None:
    body = body_of("chat", "openai", prompt="Once")
    assert (await explained(client, body))["task"] == "chat"

    told = await explained(client, body, params={"route": "/v1/completions"})

    assert told["task"] == "completion"
    assert told["requests"][0]["url"].endswith("/v1/completions")


async def test_a_route_that_is_none_is_refused_by_name(client: httpx.AsyncClient) -> None:
    answer = await client.post("/explain", json=body_of("chat", "hf"), params={"route": "/v1/x"})

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "route"
    assert "/v1/chat/completions" in answer.json()["error"]["message"]


async def test_the_prompt_is_shown_as_it_is_rendered(client: httpx.AsyncClient) -> None:
    told = await explained(client, body_of("chat", "hf"))

    [prompt] = told["prompts"]
    assert prompt == told["requests"][0]["body"]["inputs"]
    assert prompt.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    assert (await explained(client, body_of("chat", "openai")))["prompts"] == []


async def test_parameters_that_are_left_out_are_named(client: httpx.AsyncClient) -> None:
    told = await explained(client, body_of("chat", "hf", user="x", wishful=1))

    assert "wishful" in told["ignored"]
    assert "store" in (await explained(client, body_of("response", "hf")))["ignored"]


async def test_long_base64_is_cut_short_with_its_size(client: httpx.AsyncClient) -> None:
    answer = await client.post("/explain", json=body_of("chat", "hf", messages=SEEN))

    size_bytes = len(base64.b64decode(PICTURE))
    assert PICTURE not in answer.text
    inputs = answer.json()["requests"][0]["body"]["inputs"]
    assert f"{PICTURE[:32]}… ({size_bytes} bytes)" in inputs


@pytest.mark.parametrize("text", ["word " * 100, "a" * 300 + " end", "é" * 300])
async def test_long_texts_are_not(text: str, client: httpx.AsyncClient) -> None:
    told = await explained(client, body_of("completion", "hf", prompt=text))

    assert told["requests"][0]["body"]["inputs"] == text


MISTAKES: list[tuple[str, dict[str, Any]]] = [
    ("chat", {"messages": HELLO}),
    ("chat", {"model": "nobody/knows", "messages": HELLO}),
    ("chat", {"model": 3, "messages": HELLO}),
    ("chat", body_of("chat", "hf", messages=[])),
    ("chat", body_of("chat", "hf", temperature=9)),
    ("chat", body_of("chat", "hf", response_format={"type": "json_object"})),
    ("chat", body_of("chat", "hf", messages=[{"role": "nobody"}])),
    ("completion", body_of("completion", "hf", n=100, prompt=["a", "b"])),
    ("speech", body_of("speech", "hf", input=" ")),
    ("image", body_of("image", "hf", n=0)),
    ("embedding", body_of("embedding", "hf", input=[])),
    ("response", body_of("response", "hf", input=[])),
    ("response", body_of("response", "hf", previous_response_id="resp_1")),
    ("response", body_of("response", "hf", text={"format": {"type": "json_object"}})),
    ("response", {"model": "chat/hf", "input": [{"role": "user", "content": 3}]}),
]


@pytest.mark.parametrize(("task", "body"), MISTAKES)
async def test_mistakes_are_answered_as_the_real_route_does(
    task: str, body: dict[str, Any], client: httpx.AsyncClient
) -> None:
    real = await client.post(ROUTES[task], json=body)

    answer = await client.post("/explain", json=body)

    assert answer.status_code == real.status_code >= 400
    assert answer.json() == real.json()


async def test_what_is_no_json_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post("/explain", content=b"{")
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_json")


async def test_it_needs_a_key_and_shows_the_models_of_that_key_only(tmp_path: Path) -> None:
    body = body_of("chat", "openai")
    async with started_gateway(tmp_path, settings("http://127.0.0.1:1")) as gateway:
        key, _ = await gateway.new_key(models=("image/*",))
        async with gateway.client() as client:
            stranger = await client.post("/v1/explain", json=body, headers={"authorization": ""})
            headers = {"authorization": f"Bearer {key}"}
            other = await client.post("/v1/explain", json=body, headers=headers)
            allowed = await client.post("/v1/explain", json=body)

    assert [stranger.status_code, other.status_code, allowed.status_code] == [401, 404, 200]
    assert not gateway.upstream.requests


async def test_the_key_shown_is_the_digest_of_what_it_is_made_of(
    client: httpx.AsyncClient,
) -> None:
    told = await explained(client, body_of("embedding", "openai"))

    [answer] = told["cache"]["answers"]
    made_of = [*answer["made_of"].values()]
    assert sha256(msgspec.json.encode(made_of)).hexdigest() == answer["key"]


@pytest.mark.parametrize(
    ("fields", "headers", "expected"),
    [
        ({}, {}, (None, True, True)),
        ({"seed": None}, {}, ("unseeded", False, False)),
        ({"seed": None, "temperature": 0}, {}, (None, True, True)),
        ({}, {"x-use-cache": "0"}, ("unwanted", False, False)),
        ({}, {"cache-control": "no-store"}, ("unwanted", False, False)),
        ({}, {"cache-control": "no-cache"}, (None, False, True)),
        ({}, {"cache-control": "only-if-cached"}, (None, True, False)),
        ({}, {"x-wait-for-model": "0"}, (None, True, False)),
    ],
)
async def test_it_tells_whether_the_cache_is_read_and_written_and_why_not(
    fields: dict[str, Any],
    headers: dict[str, str],
    expected: tuple[str | None, bool, bool],
    client: httpx.AsyncClient,
) -> None:
    told = await explained(client, body_of("chat", "hf", **fields), headers=headers)

    cache = told["cache"]
    assert (cache["obstacle"], cache["is_read"], cache["is_written"]) == expected
    past_caches = told["requests"][0]["headers"].get("x-use-cache")
    assert (past_caches == "0") == ("x-use-cache" in headers or expected[0] == "unseeded")


async def test_a_model_whose_answers_are_not_kept_is_an_obstacle(tmp_path: Path) -> None:
    config = settings("http://127.0.0.1:1", cache={"ttl_seconds": 0})
    async with started_gateway(tmp_path, config) as gateway, gateway.client() as client:
        answer = await client.post("/v1/explain", json=body_of("chat", "openai"))

    assert answer.json()["cache"]["obstacle"] == "ttl_zero"


async def say_hi_in_full(visit: Visit) -> None:
    """Answer a chat, of whatever dialect."""
    choice = {"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}
    spoken = {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    native = [{"generated_text": "Hi", "details": {"finish_reason": "eos_token"}}]
    data = json.dumps(spoken if visit.path.startswith("/v1") else native).encode()
    await visit.send(http(data, kind="application/json"))


@pytest.mark.parametrize("task", ["chat", "response"])
async def test_an_answer_is_kept_where_it_says(task: str, tmp_path: Path) -> None:
    async with (
        metered(say_hi_in_full, tmp_path) as (site, _),
        site.client(await site.new_key()) as client,
    ):
        body = body_of(task, "openai")
        told = await explained(client, body)
        [answer] = told["cache"]["answers"]
        cache = Store(site.stores.cache_url, timeout_seconds=5)
        assert await cache.call("EXISTS", answer["place"]) == 0

        made = await client.post(ROUTES[task], json=body)

        assert made.headers["x-dragoman-cache"] == "miss"
        assert await cache.call("EXISTS", answer["place"]) == 1
        assert answer["key"] in answer["place"]
        await cache.aclose()


async def test_the_reservation_is_what_the_quotas_see(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def hold(visit: Visit) -> None:
        await go_on.wait()
        await say_hi_in_full(visit)

    async with metered(hold, tmp_path) as (site, upstream):
        key = await site.new_key(
            rpm=60, tokens_per_day=10**6, images_per_day=9, usd_per_month=Decimal(7)
        )
        async with site.client(key) as client:
            body = body_of("chat", "hf", max_tokens=77)
            reservation = (await explained(client, body))["reservation"]
            untouched = (await client.get("/usage")).json()["used"]["key"]
            asking = asyncio.create_task(client.post("/chat/completions", json=body))
            await upstream.arrival()

            used = (await client.get("/usage")).json()["used"]["key"]

            go_on.set()
            assert (await asking).status_code == 200
        [_] = await site.records(1)

    amounts = reservation["amounts"]
    assert untouched["requests_today"] == 0
    assert untouched["tokens_today"] == 0
    assert used["requests_today"] == amounts["requests"] == 1
    assert used["tokens_today"] == amounts["tokens"] > 77
    assert used["usd_this_month"] * 10**9 == pytest.approx(amounts["nano_usd"])
    assert reservation["estimate"]["output_tokens"] == 77
    limits = {one["name"]: one for one in reservation["limits"]}
    assert limits == {
        "rpm": {"scope": "key", "name": "rpm", "limit": 60, "amount": 1},
        "tokens_per_day": {
            "scope": "key",
            "name": "tokens_per_day",
            "limit": 10**6,
            "amount": amounts["tokens"],
        },
        "usd_per_month": {
            "scope": "key",
            "name": "usd_per_month",
            "limit": 7.0,
            "amount": amounts["nano_usd"] / 10**9,
        },
    }


def answers_of(
    by_host: dict[str, httpx.Response],
) -> Callable[[httpx.Request], httpx.Response]:
    """Return what answers for some hosts, and says `Hi` for all others."""

    def answer(request: httpx.Request) -> httpx.Response:
        given = by_host.get(request.url.host)
        if given is None:
            return say_hi(request)
        return httpx.Response(given.status_code, headers=given.headers, json={"error": "no"})

    return answer


TARGETS = {
    "upstreams": [
        {"name": name, "dialect": dialect, "base_url": f"http://{name}"}
        for name, dialect in {"a": "openai", "b": "openai", "c": "openai", "t": "tei"}.items()
    ],
    "models": [
        {
            "id": "m",
            "targets": [
                {"upstream": "t"},
                {"upstream": "b", "priority": 1},
                {"upstream": "a"},
                {"upstream": "a", "model": "other", "weight": 3},
            ],
            "fallbacks": ["f"],
        },
        {"id": "f", "targets": [{"upstream": "c"}]},
    ],
}
CHAT = {"model": "m", "messages": HELLO}


@asynccontextmanager
async def many_targets(folder: Path, **options: Any) -> AsyncIterator[Gateway]:
    config = Settings.model_validate(TARGETS | options)
    async with started_gateway(folder, config) as gateway:
        yield gateway


async def places(gateway: Gateway) -> list[tuple[int | None, str, str | None]]:
    """Return place, upstream and reason of each target."""
    async with gateway.client() as client:
        told = (await client.post("/v1/explain", json=CHAT)).json()
    return [(one["place"], one["upstream"], one["why"]) for one in told["targets"]]


async def test_targets_come_in_the_order_in_which_they_would_be_tried(tmp_path: Path) -> None:
    async with many_targets(tmp_path, retries={"attempts": 9}) as gateway:
        assert await places(gateway) == [
            (1, "a", None),
            (2, "a", "weight"),
            (3, "b", "priority"),
            (4, "c", "fallback"),
            (None, "t", "task"),
        ]


async def test_those_beyond_the_attempts_are_passed_over(tmp_path: Path) -> None:
    async with many_targets(tmp_path, retries={"attempts": 2}) as gateway:
        assert (await places(gateway))[2:] == [
            (None, "t", "task"),
            (None, "b", "attempts"),
            (None, "c", "attempts"),
        ]


@pytest.mark.parametrize(
    ("status", "headers", "why"),
    [(401, {}, "resting"), (429, {"retry-after": "30"}, "busy"), (404, {}, "refused")],
)
async def test_one_that_may_not_be_asked_is_passed_over_with_the_reason(
    status: int, headers: dict[str, str], why: str, tmp_path: Path
) -> None:
    async with many_targets(tmp_path, retries={"attempts": 9}) as gateway:
        gateway.upstream.answer = answers_of({"a": httpx.Response(status, headers=headers)})
        async with gateway.client() as client:
            made = await client.post("/v1/chat/completions", json=CHAT)
        assert made.headers["x-dragoman-upstream"] == "b"

        found = await places(gateway)

    assert found[0][:2] == (1, "b")
    assert found[-2:] == [(None, "a", why), (None, "a", why)]
