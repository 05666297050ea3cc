"""What the native API tells beside answers: errors, models, tokens, and whose key it is."""

from __future__ import annotations

import json

import httpx
import pytest

from gateway.config import Settings
from tests.acceptance.conftest import TOKENIZER
from tests.acceptance.native.answers import generated, reply
from tests.gateway_fixture import running_gateway
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

POSTS = [
    "/models/org/text",
    "/models/org/text/generate",
    "/models/org/text/generate_stream",
    "/models/org/text/tokenize",
    "/models/org/text/v1/chat/completions",
    "/models/org/text/v1/completions",
    "/models/org/text/pipeline/text-generation",
    "/pipeline/text-generation/org/text",
    "/hf-inference/models/org/text",
]
GETS = [
    "/models/org/text",
    "/models/org/text/info",
    "/models/org/text/health",
    "/status/org/text",
    "/framework/diffusers",
    "/api/whoami-v2",
]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", path) for path in POSTS] + [("GET", path) for path in GETS]
)
async def test_every_route_wants_a_key(client, upstream, method, path):
    for headers in ({"authorization": ""}, {"authorization": "Bearer hf_unknown"}):
        got = await client.request(method, path, headers=headers)
        assert (got.status_code, got.json()["error_type"]) == (401, "unauthorized")
        assert got.headers["www-authenticate"] == "Bearer"
    assert not upstream.visits


@pytest.mark.parametrize(
    ("method", "path", "status", "kind"),
    [
        ("POST", "/models/org/none", 404, "not_found"),
        ("GET", "/models/org/none/info", 404, "not_found"),
        ("GET", "/status/none", 404, "not_found"),
        ("GET", "/models/", 404, "not_found"),
        ("GET", "/modelsorg/text", 404, None),
        ("POST", "/pipeline/text-generation", 404, "not_found"),
        ("GET", "/api/unknown", 404, "not_found"),
        ("DELETE", "/models/org/text", 405, "method_not_allowed"),
        ("GET", "/models/org/text/generate", 405, "method_not_allowed"),
        ("POST", "/models/org/text/info", 405, "method_not_allowed"),
        ("POST", "/status/org/text", 405, "method_not_allowed"),
    ],
)
async def test_errors_of_the_router_are_native(client, method, path, status, kind):
    got = await client.request(method, path, json={"inputs": "x"} if method == "POST" else None)
    assert got.status_code == status
    if kind:
        assert got.json()["error_type"] == kind
        assert isinstance(got.json()["error"], str)
        assert "x-request-id" in got.headers


async def test_a_wrong_method_is_told_the_right_ones(client):
    got = await client.delete("/models/org/text/info")
    assert got.headers["allow"] == "GET, OPTIONS"


async def test_errors_elsewhere_stay_openais(client):
    got = await client.get("/v1/models/none")
    assert got.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize(
    ("came", "status", "kind"),
    [
        (("429 Too Many Requests", "Model is overloaded", "overloaded"), 429, "overloaded"),
        (
            ("422 Unprocessable Entity", "Input validation", "validation"),
            400,
            "validation",
        ),
        (("424 Failed Dependency", "Request failed: x", "generation"), 502, "generation"),
        (("402 Payment Required", "You have exceeded", None), 402, "insufficient_quota"),
    ],
)
async def test_errors_of_the_server_keep_their_type(client, upstream, came, status, kind):
    line, text, error_type = came
    upstream.play(reply({"error": text, "error_type": error_type}, status=line))
    got = await client.post("/models/org/text", json={"inputs": "Error"})
    assert (got.status_code, got.json()["error_type"]) == (status, kind)


async def test_a_model_that_the_server_does_not_have_is_not_found(client, upstream):
    upstream.play(reply({"error": "Model org/gone does not exist"}, status="404 Not Found"))
    got = await client.post("/models/org/gone", json={"inputs": "Error"})
    assert (got.status_code, got.json()["error_type"]) == (404, "not_found")


async def test_a_body_beyond_the_limit_is_refused(client, upstream):
    got = await client.post("/models/org/text", json={"inputs": "x" * 1_100_000})
    assert (got.status_code, got.json()["error_type"]) == (413, "validation")
    assert not upstream.visits


@pytest.mark.parametrize(
    ("limits", "kind"),
    [({"rpm": 1, "rpm_burst": 1}, "overloaded"), ({"requests_per_day": 1}, "insufficient_quota")],
)
async def test_a_spent_quota_is_told_with_the_time_to_wait(gateway, upstream, limits, kind):
    upstream.play(generated("t"))
    root = gateway.base_url.removesuffix("/v1")
    async with gateway.client(await gateway.new_key(**limits)) as http:
        first, second = [
            await http.post(f"{root}/models/org/text", json={"inputs": "Quota"}) for _ in range(2)
        ]
    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json()["error_type"] == kind
    assert int(second.headers["retry-after"]) > 0
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert len(upstream.visits) == 1


async def test_what_is_reserved_is_what_may_be_made(gateway, upstream):
    root = gateway.base_url.removesuffix("/v1")
    body = {"inputs": "Hi", "parameters": {"max_new_tokens": 2000}}
    async with gateway.client(await gateway.new_key(tokens_per_day=1500)) as http:
        got = await http.post(f"{root}/models/org/text", json=body)
    assert got.status_code == 429
    assert not upstream.visits


async def test_a_key_sees_its_own_models_only(gateway, client):
    listed = (await client.get("/framework/diffusers")).json()
    assert {"model_id": "org/picture", "task": "text-to-image"} in listed
    assert all(entry["task"] == "text-to-image" for entry in listed)
    assert (await client.get("/framework/none")).json() == []


async def test_info_tells_what_the_catalogue_knows(client):
    for path in ("/models/org/text/info", "/models/gpt2", "/hf-inference/models/org/text/info"):
        told = (await client.get(path)).json()
        assert (told["model_id"], told["model_pipeline_tag"]) == ("org/text", "text-generation")
        assert (told["max_total_tokens"], told["router"]) == (4096, "dragoman")


async def test_status_and_health_tell_whether_a_model_is_loaded(client, upstream):
    upstream.play(generated("t"))
    await client.post("/models/org/tgi", json={"inputs": "Load"})
    assert (await client.get("/status/org/tgi")).json() == {
        "loaded": True,
        "state": "Loaded",
        "compute_type": "unknown",
        "framework": "text-generation-inference",
    }
    got = await client.get("/models/org/tgi/health")
    assert (got.status_code, got.content) == (200, b"")


async def test_a_model_that_loads_is_not_healthy(client, upstream):
    loading = {"error": "Model is currently loading", "estimated_time": 0.1}
    upstream.play(reply(loading, status="503 Service Unavailable"), generated("t"))
    for healthy, status in ((503, "Loadable"), (200, "Loaded")):
        body = {"inputs": "L", "options": {"wait_for_model": False}}
        await client.post("/models/org/text", json=body)
        got = await client.get("/models/org/text/health")
        assert got.status_code == healthy
        assert healthy == 200 or got.json()["error_type"] == "healthcheck"
        assert (await client.get("/status/org/text")).json()["state"] == status


async def test_whoami_tells_whose_key_it_is(client):
    told = (await client.get("/api/whoami-v2")).json()
    assert (told["type"], told["name"]) == ("user", "test")
    assert [org["name"] for org in told["orgs"]] == ["red"]
    assert "sk-dm" not in json.dumps(told)


async def test_a_model_without_a_tokenizer_says_so(client):
    got = await client.post("/models/org/text/tokenize", json={"inputs": "x"})
    assert (got.status_code, got.json()["error_type"]) == (501, "not_supported")


async def test_a_text_is_tokenized_with_places(tmp_path, upstream):
    model = {"id": "m", "tokenizer": str(TOKENIZER), "targets": [{"upstream": "hf"}]}
    hf = {"name": "hf", "dialect": "hf", "base_url": upstream.url}
    settings = Settings.model_validate({"upstreams": [hf], "models": [model]})
    text = "Deep é learning"
    async with (
        running_gateway(settings, tmp_path) as running,
        httpx.AsyncClient(headers=running.headers, timeout=PATIENCE_SECONDS) as http,
    ):
        root = running.base_url.removesuffix("/v1")
        got = await http.post(f"{root}/models/m/tokenize", json={"inputs": text})
    tokens = got.json()
    assert [*tokens[0]] == ["id", "text", "start", "stop"]
    assert tokens[0]["text"] == text[: tokens[0]["stop"]]
    assert tokens[-1]["stop"] == len(text)
    assert not upstream.visits


async def test_texts_of_encoders_are_tokenized_too(tmp_path, upstream):
    hf = {"name": "hf", "dialect": "hf", "base_url": upstream.url}
    model = {
        "id": "m",
        "task": "embedding",
        "tokenizer": str(TOKENIZER),
        "targets": [{"upstream": "hf"}],
    }
    settings = Settings.model_validate({"upstreams": [hf], "models": [model]})
    async with (
        running_gateway(settings, tmp_path) as running,
        httpx.AsyncClient(headers=running.headers, timeout=PATIENCE_SECONDS) as http,
    ):
        root = running.base_url.removesuffix("/v1")
        got = await http.post(f"{root}/models/m/tokenize", json={"inputs": "Deep learning"})
    assert "".join(token["text"] for token in got.json()) == "Deep learning"
