"""How many series there are: as many as the operator has configured things, whoever asks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config import Metrics
from gateway.keys import generate
from gateway.metrics.keys import REST, Places
from tests.gateway.metrics.told import Told
from tests.gateway.running import CHAT, Gateway, settings, started_gateway

pytestmark = pytest.mark.anyio

MANY, FEW, MOST_KEYS, KEYS = 10_000, 500, 50, 300


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    config = settings().model_copy(update={"metrics": Metrics(per_key=True, most_keys=MOST_KEYS)})
    async with started_gateway(tmp_path, config) as made:
        yield made


async def told(gateway: Gateway) -> Told:
    async with gateway.client() as client:
        return Told.of((await client.get("/metrics")).text)


async def statuses(
    gateway: Gateway, requests: Iterable[tuple[str, str, dict[str, Any]]]
) -> set[int]:
    """Send requests (path, key, body) without sockets or a client's own work; return the answers'.

    With httpx in between they would take ten times as long. Each comes from an address of its own,
    as one that shows wrong keys is slowed down.
    """
    seen = set()
    for number, (path, key, body) in enumerate(requests):
        data = json.dumps(body).encode()
        unread = [{"type": "http.request", "body": data, "more_body": False}]

        async def receive(unread: list[dict[str, Any]] = unread) -> dict[str, Any]:
            return unread.pop() if unread else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                seen.add(message["status"])

        headers = [(b"host", b"gateway"), (b"authorization", f"Bearer {key}".encode())]
        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "headers": [*headers, (b"content-length", b"%d" % len(data))],
            "client": (str(ip_address(number)), 1),
            "server": ("127.0.0.1", 80),
            "http_version": "1.1",
            "extensions": {},
        }
        await gateway.app(scope, receive, send)  # type: ignore[arg-type]
    return seen


def chats(keys: Iterable[str], models: Iterable[str]) -> Iterable[tuple[str, str, dict[str, Any]]]:
    pairs = zip(keys, models, strict=True)
    return (("/v1/chat/completions", key, CHAT | {"model": model}) for key, model in pairs)


async def test_models_keys_and_paths_that_clients_invent_add_no_series(gateway: Gateway) -> None:
    invented = [f"model-{at}" for at in range(MANY)]
    keys = [generate().text for _ in range(MANY)]
    paths = [f"/{folder}/{at}" for folder in ("v1", "models/org") for at in range(FEW)]

    async def ask(count: int) -> set[int]:
        return (
            await statuses(gateway, chats([gateway.key] * count, invented[:count]))
            | await statuses(gateway, chats(keys[:count], ["openai/model"] * count))
            | await statuses(gateway, ((path, gateway.key, {}) for path in paths))
        )

    assert await ask(FEW) >= {401, 404}
    before = await told(gateway)
    assert await ask(MANY) <= {400, 401, 404, 429}
    after = await told(gateway)
    assert after.value("dragoman_http_requests_total") >= 2 * MANY
    assert after.value("dragoman_errors_total") >= 2 * MANY
    assert {name for name, _ in after.series() - before.series()} <= {
        "dragoman_errors_total",  # once for each of its codes
        "dragoman_http_requests_total",  # once for each status
    }
    assert len(after.series() - before.series()) < 10


async def test_codes_of_upstreams_are_one(gateway: Gateway) -> None:
    numbers = iter(range(200))

    def refuse(_: httpx.Request) -> httpx.Response:
        error = {"message": "no", "type": "invalid_request_error", "code": f"c-{next(numbers)}"}
        return httpx.Response(400, json={"error": error})

    gateway.upstream.answer = refuse
    assert await statuses(gateway, chats([gateway.key] * 200, ["openai/model"] * 200)) == {400}
    codes = (await told(gateway)).labels("dragoman_errors_total", "code")
    assert codes == {"other"}


async def test_so_many_keys_are_told_apart_and_the_rest_are_one(gateway: Gateway) -> None:
    keys = [await gateway.new_key() for _ in range(KEYS)]
    texts = [text for text, _ in keys]
    for _ in range(2):
        await statuses(gateway, chats(texts, ["openai/model"] * KEYS))
    seen = await told(gateway)
    labels = seen.labels("dragoman_key_requests_total", "key")
    assert labels == {REST, *(id_ for _, id_ in keys[:MOST_KEYS])}
    for name in ("dragoman_key_tokens_total", "dragoman_key_cost_nano_usd_total"):
        assert seen.labels(name, "key") == labels
    assert seen.value("dragoman_key_requests_total") == 2 * KEYS
    assert seen.value("dragoman_key_requests_total", key=REST) == 2 * (KEYS - MOST_KEYS)


def test_all_workers_together_give_away_so_many_places(tmp_path: Path) -> None:
    workers = [Places(MOST_KEYS, tmp_path) for _ in range(4)]
    given = [name for name in map(str, range(KEYS)) if workers[int(name) % 4].take(name)]
    assert given == [str(at) for at in range(MOST_KEYS)]
    for worker in (*workers, Places(MOST_KEYS, tmp_path)):
        assert all(map(worker.take, given))
        assert not worker.take("another")
