"""What holds for every response, and the routes that need no upstream."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from litestar.types import HTTPScope

from gateway import __version__
from gateway.access import Access
from gateway.edge import Edge
from tests.gateway.running import CHAT, Gateway, envelope, started_gateway

pytestmark = pytest.mark.anyio

OPEN_ROUTES = ["/", "/health", "/ready", "/docs", "/openapi.json"]
KEYED_ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/openai/model"),
]
STREAM = CHAT | {"stream": True}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    async with started_gateway(tmp_path) as made:
        yield made


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client() as client:
        yield client


@pytest.fixture
async def stranger(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client() as client:
        del client.headers["authorization"]
        yield client


def check_head(answer: httpx.Response) -> None:
    assert answer.headers["access-control-allow-origin"] == "*"
    exposed = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after", "x-dragoman-ignored"} <= set(exposed)
    assert uuid.UUID(answer.headers["x-request-id"]).version == 7
    assert answer.headers["openai-processing-ms"].isdecimal()


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/health", None),
        ("GET", "/v1/models", None),
        ("GET", "/nope", None),
        ("DELETE", "/v1/models", None),
        ("POST", "/v1/chat/completions", CHAT),
        ("POST", "/v1/chat/completions", STREAM),
        ("POST", "/v1/chat/completions", {}),
        ("POST", "/v1/chat/completions", CHAT | {"model": "nope"}),
        ("OPTIONS", "/v1/models", None),
    ],
)
async def test_every_response_has_an_id_a_time_and_cors(
    client: httpx.AsyncClient, method: str, path: str, body: object
) -> None:
    answers = [await client.request(method, path, json=body) for _ in range(3)]
    for answer in answers:
        check_head(answer)
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert len(set(ids)) == 3
    assert [one[:13] for one in ids] == sorted(one[:13] for one in ids)


async def test_the_gateways_own_failure_is_an_envelope_with_an_id(
    gateway: Gateway, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: httpx.Request) -> httpx.Response:
        raise RuntimeError("a secret")

    gateway.upstream.answer = fail
    answer = await client.post("/v1/chat/completions", json=CHAT)
    check_head(answer)
    assert answer.status_code == 500
    assert envelope(answer.content)["code"] == "internal_error"
    assert "secret" not in answer.text
    assert caplog.records[0].exc_info


class Hearing:
    """Keeps what it hears of requests."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []

    def began(self, access: Access, scope: HTTPScope) -> None:
        self.heard.append(("began", access.status))

    def ended(self, access: Access, scope: HTTPScope) -> None:
        self.heard.append(("ended", access.status))


class Failing:
    """Cannot hear of anything."""

    def began(self, access: Access, scope: HTTPScope) -> None:
        raise KeyError("a secret")

    ended = began


async def test_an_observer_that_fails_costs_neither_the_answer_nor_what_others_hear(
    gateway: Gateway, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    first, last = Hearing(), Hearing()
    app = gateway.app
    app.asgi_handler = Edge(app.asgi_handler, [first, Failing(), last])
    answer = await client.post("/v1/chat/completions", json=STREAM)
    assert (answer.status_code, answer.text.split()[-1]) == (200, "[DONE]")
    assert first.heard == last.heard == [("began", 0), ("ended", 200)]
    told = [record for record in caplog.records if record.name == "gateway.edge"]
    assert len(told) == 2
    assert all(record.exc_info and "secret" not in record.getMessage() for record in told)


@pytest.mark.parametrize("path", [*OPEN_ROUTES, *(path for _, path in KEYED_ROUTES), "/nope"])
async def test_browsers_may_ask_beforehand_on_every_route(
    stranger: httpx.AsyncClient, path: str
) -> None:
    wanted = "authorization, content-type, x-stainless-lang"
    answer = await stranger.options(
        path,
        headers={
            "origin": "https://app.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": wanted,
        },
    )
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["access-control-allow-headers"] == wanted
    assert "POST" in answer.headers["access-control-allow-methods"]


@pytest.mark.parametrize("path", ["/nope", "/v1", "/v1/nope", "/v1/chat", "/v2/models"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_unknown_url_is_404(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path)
    error = envelope(answer.content)
    assert (answer.status_code, error["code"]) == (404, "unknown_url")
    assert error["message"] == f"Unknown request URL: {method} {path}."


@pytest.mark.parametrize("path", ["/docs/nope", "/docs/nope.json"])
async def test_an_unknown_page_of_the_docs_is_404_too(
    stranger: httpx.AsyncClient, path: str
) -> None:
    answer = await stranger.get(path)
    assert (answer.status_code, envelope(answer.content)["code"]) == (404, "unknown_url")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/completions", "POST"),
        ("PUT", "/v1/models", "GET"),
        ("POST", "/health", "GET"),
        ("POST", "/v1/models/openai/model", "GET"),
        ("BREW", "/v1/models", "GET"),
    ],
)
async def test_a_wrong_method_is_405_and_told_the_right_one(
    client: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, envelope(answer.content)["code"]) == (405, "method_not_allowed")
    assert allowed in answer.headers["allow"].split(", ")


@pytest.mark.parametrize("path", OPEN_ROUTES)
async def test_head_is_get_without_the_body(stranger: httpx.AsyncClient, path: str) -> None:
    answer = await stranger.head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    check_head(answer)


@pytest.mark.parametrize("path", ["/v1//models", "/v1/models//", "/v1///models", "/.//v1/models"])
async def test_slashes_in_a_row_are_one(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).json()["object"] == "list"


CREDENTIALS = {
    "bearer": lambda key: {"authorization": f"Bearer {key}"},
    "bearer in capitals": lambda key: {"authorization": f"BEARER  {key} "},
    "Azure's": lambda key: {"api-key": key},
    "Anthropic's": lambda key: {"x-api-key": key},
}


@pytest.mark.parametrize("give", CREDENTIALS.values(), ids=CREDENTIALS)
async def test_a_key_may_come_in_any_of_the_usual_headers(
    gateway: Gateway, stranger: httpx.AsyncClient, give: Any
) -> None:
    assert (await stranger.get("/v1/models", headers=give(gateway.key))).status_code == 200


async def check_unauthorized(
    stranger: httpx.AsyncClient, headers: dict[str, str], word: str
) -> None:
    for method, path in KEYED_ROUTES:
        answer = await stranger.request(method, path, headers=headers, content=b"{")
        error = envelope(answer.content)
        assert (answer.status_code, error["code"]) == (401, "invalid_api_key")
        assert error["type"] == "invalid_request_error"
        assert word in error["message"]
        assert answer.headers["www-authenticate"] == "Bearer"
        check_head(answer)


@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": ""}, {"authorization": "Bearer "}, {"authorization": "Basic YTpi"}],
)
async def test_no_key_is_401(stranger: httpx.AsyncClient, headers: dict[str, str]) -> None:
    await check_unauthorized(stranger, headers, "didn't provide an API key")


@pytest.mark.parametrize("key", ["x", "sk-proj-123", "sk-dm_" + "a" * 46, "é" * 52, "k" * 9000])
async def test_what_is_not_a_key_is_401_and_not_repeated(
    stranger: httpx.AsyncClient, key: str
) -> None:
    headers = {"authorization": f"Bearer {key}".encode("latin-1")}
    await check_unauthorized(stranger, headers, "not a whole Dragoman key")  # type: ignore[arg-type]


async def test_an_unknown_key_is_401(stranger: httpx.AsyncClient) -> None:
    from gateway.keys import generate

    headers = {"authorization": f"Bearer {generate().text}"}
    await check_unauthorized(stranger, headers, "Incorrect API key provided.")


async def test_a_revoked_key_is_401(gateway: Gateway, stranger: httpx.AsyncClient) -> None:
    key, key_id = await gateway.new_key()
    await gateway.book.revoke_key(key_id)
    await check_unauthorized(stranger, {"x-api-key": key}, "revoked")


async def test_an_expired_key_is_401(gateway: Gateway, stranger: httpx.AsyncClient) -> None:
    key, _ = await gateway.new_key(expires_at=1)
    await check_unauthorized(stranger, {"api-key": key}, "expired")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
@pytest.mark.parametrize("name", ["nope", "", "openai/model ", "OPENAI/MODEL", "../model", "é"])
async def test_an_unknown_model_is_404(
    gateway: Gateway, client: httpx.AsyncClient, path: str, name: str
) -> None:
    answer = await client.post(path, json=CHAT | {"prompt": "a", "model": name})
    error = envelope(answer.content)
    assert (answer.status_code, error["code"]) == (404, "model_not_found")
    assert (error["param"], error["type"]) == ("model", "invalid_request_error")
    assert gateway.upstream.requests == []


async def test_usage_that_the_upstream_does_not_tell_counts_every_choice(
    client: httpx.AsyncClient,
) -> None:
    answers = [await client.post("/v1/chat/completions", json=CHAT | {"n": n}) for n in (1, 4)]
    counts = [answer.json()["usage"]["completion_tokens"] for answer in answers]
    assert counts == [1, 2]  # `Hi` and `HiHiHiHi`, at four characters per token


async def test_a_model_that_the_key_may_not_use_looks_like_an_unknown_one(
    gateway: Gateway, client: httpx.AsyncClient
) -> None:
    key, _ = await gateway.new_key(models=("hf/*",))
    client.headers["authorization"] = f"Bearer {key}"
    answers = [
        await client.post("/v1/chat/completions", json=CHAT | {"model": name})
        for name in ("openai/model", "openai/nodel")
    ]
    bodies = [answer.text.replace("nodel", "model") for answer in answers]
    assert answers[0].status_code == 404
    assert bodies[0] == bodies[1]
    listed = (await client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["hf/model"]
    assert (await client.get("/v1/models/openai/model")).status_code == 404


async def test_a_key_may_use_a_model_by_any_of_its_names(
    gateway: Gateway, client: httpx.AsyncClient
) -> None:
    key, _ = await gateway.new_key(models=("alias-o*",))
    client.headers["authorization"] = f"Bearer {key}"
    listed = (await client.get("/v1/models")).json()["data"]
    assert [model["id"] for model in listed] == ["openai/model"]
    for name in ("alias-openai", "openai/model"):
        answer = await client.post("/v1/chat/completions", json=CHAT | {"model": name})
        assert answer.status_code == 200
    answer = await client.post("/v1/chat/completions", json=CHAT | {"model": "alias-hf"})
    assert answer.status_code == 404


async def test_models_are_listed_with_what_serves_them(client: httpx.AsyncClient) -> None:
    listed = (await client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [model["id"] for model in listed["data"]] == ["openai/model", "hf/model", "tgi/model"]
    for model in listed["data"]:
        assert model["object"] == "model"
        assert isinstance(model["created"], int)
        assert model["dragoman"]["task"] == "chat"
        assert model["dragoman"]["upstreams"] == [model["owned_by"]]
        assert model["dragoman"]["state"] == "cold"


@pytest.mark.parametrize(
    "name", ["openai/model", "openai%2Fmodel", "openai%2fmodel", "alias-openai", "openai//model"]
)
async def test_a_model_is_found_by_any_spelling_of_its_name(
    client: httpx.AsyncClient, name: str
) -> None:
    model = (await client.get(f"/v1/models/{name}")).json()
    assert (model["id"], model["dragoman"]["aliases"]) == ("openai/model", ["alias-openai"])


async def test_a_model_that_is_not_there_is_404(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/models/no/such")
    assert (answer.status_code, envelope(answer.content)["code"]) == (404, "model_not_found")


async def test_an_alias_is_answered_under_its_own_name(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/chat/completions", json=CHAT | {"model": "alias-openai"})
    assert answer.json()["model"] == "alias-openai"
    assert answer.headers["x-dragoman-model"] == "openai/model"
    assert answer.headers["x-dragoman-upstream"] == "openai"


async def test_health_and_ready_need_no_key(stranger: httpx.AsyncClient) -> None:
    assert (await stranger.get("/health")).json() == {"status": "ok", "version": __version__}
    assert (await stranger.get("/ready")).json() == {"status": "ready", "missing": []}


async def test_docs_show_the_api(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.get("/docs")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "/v1/chat/completions" in answer.text


async def test_openapi_describes_the_bodies(stranger: httpx.AsyncClient) -> None:
    answer = await stranger.get("/openapi.json")
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    for path, required in (
        ("/v1/chat/completions", {"model", "messages"}),
        ("/v1/completions", {"model"}),
    ):
        content = document["paths"][path]["post"]["requestBody"]["content"]
        schema = resolve(document, content["application/json"]["schema"]["$ref"])
        assert set(schema["required"]) == required
        assert {"temperature", "stream"} <= set(schema["properties"])
    assert "/v1/models" in document["paths"]


async def test_every_reference_of_openapi_leads_somewhere(stranger: httpx.AsyncClient) -> None:
    text = (await stranger.get("/openapi.json")).text
    references = set(re.findall(r'"\$ref":\s*"([^"]*)"', text))
    assert len(references) > 10
    for reference in references:
        assert resolve(json.loads(text), reference)


def resolve(document: dict[str, Any], reference: str) -> Any:
    value: Any = document
    root, *steps = reference.split("/")
    assert root == "#"
    for step in steps:
        value = value[step.replace("~1", "/").replace("~0", "~")]
    return value
