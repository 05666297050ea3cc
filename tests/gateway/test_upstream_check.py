"""What `dragoman check` says of upstreams and of the Hub, and what it tells the operator to do."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from adapters.transport import Transport
from gateway.config import Settings
from gateway.upstream_check import examine_hub, examine_target
from gateway.upstreams.catalog import Catalog
from tests.gateway.upstreams.fake_hub import TOKEN, reply
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

PAGE = {"content-type": "text/html; charset=utf-8"}


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
async def server() -> AsyncIterator[Upstream]:
    async def fine(visit: Visit) -> None:
        await visit.send(reply({}))

    async with Upstream(fine) as server:
        yield server


async def examine(
    url: str, *, dialect: str = "openai", task: str = "chat", model: str = "m"
) -> tuple[bool, str]:
    upstream = {"name": "u", "dialect": dialect, "base_url": url, "api_key_env": "HF_TOKEN"}
    entry = {"id": model, "task": task, "targets": [{"upstream": "u"}]}
    settings = Settings.model_validate({"upstreams": [upstream], "models": [entry]})
    async with Transport() as transport:
        catalog = Catalog(settings, transport)
        return await examine_target(catalog.models[0].targets[0], task)


async def hub_lines(server: Upstream) -> list[tuple[str, bool, str]]:
    hub = {"enabled": True, "url": server.url, "router_url": server.url}
    settings = Settings.model_validate({"hub": hub})
    async with Transport() as transport:
        catalog = Catalog(settings, transport)
        assert catalog.hub is not None
        return [line async for line in examine_hub(catalog.hub)]


@pytest.mark.parametrize(
    ("dialect", "task", "path"),
    [
        ("openai", "chat", "/v1/models"),
        ("together", "image", "/v1/models"),
        ("hf", "chat", "/status/m"),
        ("hf-inference", "speech", "/status/m"),
        ("tgi", "chat", "/health"),
        ("tei", "embedding", "/health"),
        ("fal", "image", "/"),
        ("replicate", "image", "/v1/account"),
    ],
)
async def test_an_upstream_that_answers_is_asked_once_for_nothing_that_costs(
    server: Upstream, dialect: str, task: str, path: str
) -> None:
    assert await examine(server.url, dialect=dialect, task=task) == (True, "answers")
    assert [(visit.method, visit.path) for visit in server.visits] == [("GET", path)]


async def test_the_dead_address_of_the_old_service_is_known_without_asking() -> None:
    ok, detail = await examine("https://api-inference.huggingface.co", dialect="hf")
    assert not ok
    assert "set 'base_url' to https://router.huggingface.co/hf-inference" in detail


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        ("401 Unauthorized", "does not know the credential: see 'api_key_env'"),
        ("402 Payment Required", "has no credits left"),
        ("403 Forbidden", "gated and its account has not accepted the licence"),
        ("410 Gone", "gone for good: see 'base_url'"),
    ],
)
async def test_a_refusal_of_the_gateway_comes_with_what_to_do(
    server: Upstream, status: str, advice: str
) -> None:
    server.play(reply({"error": f"not with {TOKEN}"}, status=status))
    ok, detail = await examine(server.url)
    assert not ok
    assert status[:3] in detail
    assert advice in detail
    assert TOKEN not in detail


@pytest.mark.parametrize(
    ("dialect", "task", "work"),
    [
        ("openai", "chat", "/v1/chat/completions"),
        ("openai", "embedding", "/v1/embeddings"),
        ("hf", "chat", "/models/m"),
        ("tei", "embedding", "/embed"),
    ],
)
async def test_an_address_where_nothing_is_is_wrong(
    server: Upstream, dialect: str, task: str, work: str
) -> None:
    server.play(reply({"error": "Not Found"}, status="404 Not Found"))
    ok, detail = await examine(server.url, dialect=dialect, task=task)
    assert not ok
    assert detail.endswith("with 404: see 'base_url'")
    assert [visit.path for visit in server.visits][1:] == [work]
    assert server.visits[1].raw.endswith(b"\r\n\r\n{}")


async def test_an_address_of_web_pages_is_wrong(server: Upstream) -> None:
    server.play(reply(b"<!doctype html>", headers=PAGE))
    ok, detail = await examine(server.url)
    assert not ok
    assert "with web pages: see 'base_url'" in detail


async def test_a_server_without_that_path_is_well_if_it_takes_work(server: Upstream) -> None:
    server.play(
        reply({"error": "Not Found"}, status="404 Not Found"),
        reply({"error": "field required"}, status="422 Unprocessable Entity"),
    )
    ok, detail = await examine(server.url)
    assert (ok, detail) == (True, "answers /models with 404")


async def test_a_server_that_fails_is_named_with_its_words(server: Upstream) -> None:
    server.play(reply({"error": f"no memory for {TOKEN}"}, status="500 ISE"))
    ok, detail = await examine(server.url)
    assert (ok, detail.partition("for")[0]) == (False, "answers /models with 500: no memory ")


async def test_the_hub_and_its_router_are_asked_with_the_token(server: Upstream) -> None:
    assert await hub_lines(server) == [
        ("hub", True, "answers"),
        ("hub router", True, "answers"),
    ]
    assert [visit.path for visit in server.visits] == ["/api/whoami-v2", "/v1/models"]
    assert all(visit.headers["authorization"] == f"Bearer {TOKEN}" for visit in server.visits)


async def test_a_token_that_the_hub_does_not_know_is_named(server: Upstream) -> None:
    server.play(reply({"error": "Invalid credentials"}, status="401 Unauthorized"))
    [hub, _] = await hub_lines(server)
    assert hub[:2] == ("hub", False)
    assert "does not know the credential" in hub[2]


@pytest.mark.parametrize(
    ("part", "what"),
    [
        (reply(b"<html>", headers=PAGE), "a web page"),
        (reply({}, status="404 Not Found"), "404"),
    ],
)
async def test_a_hub_at_the_wrong_address_is_named(
    server: Upstream, part: bytes, what: str
) -> None:
    server.play(part)
    [hub, router] = await hub_lines(server)
    assert hub == ("hub", False, f"answers /api/whoami-v2 with {what}: see 'url' and 'router_url'")
    assert not router[1]


async def test_a_hub_that_cannot_be_reached_is_named(server: Upstream) -> None:
    server.play(reply({"error": TOKEN}, status="500 ISE"))
    lines = await hub_lines(server)
    assert [line[:2] for line in lines] == [("hub", False), ("hub router", False)]
    assert all(TOKEN not in line[2] for line in lines)
