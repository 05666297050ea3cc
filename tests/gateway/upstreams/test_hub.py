"""With a token of the Hub's, any of its models is there by its id."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.upstreams.fake_hub import TOKEN, HubSite, answer, hub_site, model, reply

pytestmark = pytest.mark.anyio

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
LLM = model(
    "org/llm",
    "text-generation",
    ("groq", "llm-8b-instant", "conversational"),
    ("together", "org/llm-Turbo", "conversational"),
    ("hf-inference", "org/llm", "conversational"),
)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
JSON_SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA}}


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[HubSite]:
    async with hub_site(tmp_path) as site:
        site.hub.models["org/llm"] = LLM
        yield site


def error_of(response: Any) -> tuple[int, str]:
    return response.status_code, response.json()["error"]["code"]


async def test_a_chat_goes_to_the_routers_own_choice(site: HubSite) -> None:
    site.router.play(answer("Hello"))
    response = await site.chat("org/llm")
    assert response.status_code == 200, response.text
    assert response.json()["choices"][0]["message"]["content"] == "Hello"
    assert response.headers["x-dragoman-upstream"] == "hub.auto"
    [visit] = site.router.visits
    assert visit.path == "/v1/chat/completions"
    assert visit.body["model"] == "org/llm"
    assert visit.headers["authorization"] == f"Bearer {TOKEN}"


async def test_the_hub_is_asked_for_what_counts_and_only_once(site: HubSite) -> None:
    site.router.play(answer("Hello"))
    for _ in range(3):
        await site.chat("org/llm")
    assert site.hub.asked == ["org/llm"]
    assert site.hub.queries == [
        {"expand": ["pipeline_tag", "gated", "inferenceProviderMapping"]},
    ]
    assert site.hub_server.visits[0].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("provider", "path", "own_name", "response_format"),
    [
        ("groq", "/groq/openai/v1/chat/completions", "llm-8b-instant", JSON_SCHEMA),
        (
            "together",
            "/together/v1/chat/completions",
            "org/llm-Turbo",
            {"type": "json_schema", "schema": SCHEMA},
        ),
        (
            "hf-inference",
            "/hf-inference/models/org/llm/v1/chat/completions",
            "org/llm",
            {"type": "json_object", "value": SCHEMA},
        ),
    ],
)
async def test_a_provider_that_is_named_is_asked_itself(
    site: HubSite, provider: str, path: str, own_name: str, response_format: Any
) -> None:
    site.router.play(answer("{}"))
    response = await site.chat(f"org/llm:{provider}", response_format=JSON_SCHEMA)
    assert response.status_code == 200, response.text
    [visit] = site.router.visits
    assert (visit.path, visit.body["model"]) == (path, own_name)
    assert visit.body["response_format"] == response_format


async def test_an_image_model_goes_from_provider_to_provider_in_the_hubs_order(
    site: HubSite,
) -> None:
    site.hub.models["org/painter"] = model(
        "org/painter",
        "text-to-image",
        ("wavespeed", "w/p", "text-to-image"),
        ("together", "t/painter", "text-to-image"),
        ("hf-inference", "org/painter", "text-to-image"),
    )
    site.router.play(reply({"error": "down"}, status="500 ISE"), reply(PNG))
    response = await site.client.post(
        "/images/generations", json={"model": "org/painter", "prompt": "a fox"}
    )
    assert response.status_code == 200, response.text
    assert response.headers["x-dragoman-upstream"] == "hub.hf-inference"
    assert [visit.path for visit in site.router.visits] == [
        "/together/v1/images/generations",
        "/hf-inference/models/org/painter",
    ]
    assert site.router.visits[0].body["model"] == "t/painter"


async def test_an_embedding_model_serves_embeddings(site: HubSite) -> None:
    site.hub.models["org/embed"] = model(
        "org/embed", "sentence-similarity", ("hf-inference", "org/embed", "feature-extraction")
    )
    site.router.play(reply([[0.5, 0.25]]))
    response = await site.client.post("/embeddings", json={"model": "org/embed", "input": "x"})
    assert response.json()["data"][0]["embedding"] == [0.5, 0.25]
    [visit] = site.router.visits
    assert visit.path == "/hf-inference/models/org/embed/pipeline/feature-extraction"


async def test_a_base_model_completes_at_hf_inference(site: HubSite) -> None:
    site.hub.models["org/base"] = model(
        "org/base", "text-generation", ("hf-inference", "org/base", "text-generation")
    )
    details = {"finish_reason": "length", "generated_tokens": 1, "prefill": [], "tokens": []}
    site.router.play(reply([{"generated_text": " there", "details": details}]))
    response = await site.client.post(
        "/completions", json={"model": "org/base", "prompt": "Hi", "max_tokens": 1}
    )
    assert response.json()["choices"][0]["text"] == " there"
    assert site.router.visits[0].path == "/hf-inference/models/org/base"


async def test_a_model_of_another_task_is_not_found_by_that_route(site: HubSite) -> None:
    response = await site.client.post("/embeddings", json={"model": "org/llm", "input": "x"})
    assert error_of(response) == (404, "model_not_found")
    assert site.router.visits == []


async def test_a_model_that_openai_has_no_route_for_is_there_for_native_clients(
    site: HubSite,
) -> None:
    site.hub.models["org/mask"] = model(
        "org/mask", "fill-mask", ("hf-inference", "org/mask", "fill-mask")
    )
    site.router.play(reply([{"score": 0.5, "token_str": "fox"}]))
    root = site.gateway.base_url.removesuffix("/v1")
    response = await site.client.post(f"{root}/models/org/mask", json={"inputs": "a [MASK]"})
    assert response.json() == [{"score": 0.5, "token_str": "fox"}]
    assert site.router.visits[0].path == "/hf-inference/models/org/mask"
    assert error_of(await site.chat("org/mask")) == (404, "model_not_found")


async def test_a_model_that_the_hub_does_not_have_is_not_found(site: HubSite) -> None:
    responses = [await site.chat("org/nothing") for _ in range(3)]
    assert {error_of(response) for response in responses} == {(404, "model_not_found")}
    assert site.hub.asked == ["org/nothing"]


async def test_missing_and_forbidden_look_alike_and_the_forbidden_is_not_asked_for(
    site: HubSite,
) -> None:
    headers = await site.restricted("org/*")
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    missing, forbidden = [
        await site.client.post("/chat/completions", json={"model": name, **body}, headers=headers)
        for name in ("org/nothing", "other/nothing")
    ]
    assert missing.status_code == forbidden.status_code == 404
    assert missing.text.replace("org/", "other/") == forbidden.text
    assert site.hub.asked == ["org/nothing"]


async def test_a_forbidden_model_stays_so_when_others_have_asked_for_it(site: HubSite) -> None:
    site.router.play(answer("Hello"))
    assert (await site.chat("org/llm")).status_code == 200
    headers = await site.restricted("other/*")
    response = await site.client.post(
        "/chat/completions",
        json={"model": "org/llm", "messages": [{"role": "user", "content": "Hi"}]},
        headers=headers,
    )
    assert error_of(response) == (404, "model_not_found")
    shown = await site.client.get("/models/org/llm", headers=headers)
    assert error_of(shown) == (404, "model_not_found")


async def test_a_key_for_a_model_may_choose_its_provider(site: HubSite) -> None:
    headers = await site.restricted("org/llm")
    site.router.play(answer("Hello"))
    response = await site.client.post(
        "/chat/completions",
        json={"model": "org/llm:groq", "messages": [{"role": "user", "content": "Hi"}]},
        headers=headers,
    )
    assert response.status_code == 200


async def test_a_key_for_one_provider_may_use_no_other(site: HubSite) -> None:
    headers = await site.restricted("org/llm:groq")
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    site.router.play(answer("Hello"))
    statuses = [
        (
            await site.client.post(
                "/chat/completions", json={"model": name, **body}, headers=headers
            )
        ).status_code
        for name in ("org/llm:groq", "org/llm", "org/llm:together")
    ]
    assert statuses == [200, 404, 404]


async def test_a_model_is_shown_once_it_is_known(site: HubSite) -> None:
    assert (await site.client.get("/models/org/llm")).status_code == 404
    site.router.play(answer("Hello"))
    await site.chat("org/llm")
    shown = (await site.client.get("/models/org/llm")).json()
    assert (shown["id"], shown["owned_by"]) == ("org/llm", "org")
    assert shown["dragoman"]["task"] == "chat"
    assert shown["dragoman"]["upstreams"] == ["hub.auto"]
    assert (await site.client.get("/models")).json()["data"] == []


async def test_a_flood_of_invented_ids_costs_a_bounded_number_of_look_ups(site: HubSite) -> None:
    responses = [await site.chat(f"org/invented-{at}") for at in range(60)]
    refused = [response for response in responses if response.status_code == 429]
    assert len(site.hub.asked) <= 25
    assert len(refused) == 60 - len(site.hub.asked)
    assert {error_of(response)[1] for response in refused} == {"rate_limit_exceeded"}
    assert all(1 <= int(response.headers["retry-after"]) <= 60 for response in refused)


async def test_a_flood_of_one_key_does_not_keep_another_from_asking(site: HubSite) -> None:
    for at in range(30):
        await site.chat(f"org/invented-{at}")
    site.router.play(answer("Hello"))
    response = await site.client.post(
        "/chat/completions",
        json={"model": "org/llm", "messages": [{"role": "user", "content": "Hi"}]},
        headers=await site.restricted("*"),
    )
    assert response.status_code == 200


async def test_a_gated_model_says_so_when_the_router_refuses_it(site: HubSite) -> None:
    site.hub.models["org/gated"] = model(
        "org/gated",
        "text-generation",
        ("hf-inference", "org/gated", "conversational"),
        gated="manual",
    )
    told = f"Access to model org/gated is restricted, {TOKEN} is not in the authorized list."
    site.router.play(reply({"error": told}, status="403 Forbidden"))
    response = await site.chat("org/gated")
    assert error_of(response) == (403, "model_gated")
    message = response.json()["error"]["message"]
    assert "operator of this gateway must accept its licence" in message
    assert "token" not in message.lower()
    assert TOKEN not in response.text


async def test_a_refusal_of_a_model_that_is_not_gated_is_the_operators_concern(
    site: HubSite,
) -> None:
    site.router.play(reply({"error": "no"}, status="403 Forbidden"))
    assert error_of(await site.chat("org/llm")) == (502, "upstream_misconfigured")


async def test_a_model_that_was_renamed_is_found_by_its_old_id(site: HubSite) -> None:
    site.hub.models["old/llm"] = reply(
        b"", status="307 Temporary", headers={"location": "/api/models/org/llm?expand=gated"}
    )
    site.router.play(answer("Hello"))
    assert (await site.chat("old/llm")).status_code == 200
    assert site.router.visits[0].body["model"] == "org/llm"


async def test_without_a_mapping_hf_inference_is_asked(site: HubSite) -> None:
    site.hub.models["org/mirrored"] = {"id": "org/mirrored", "pipeline_tag": "text-to-image"}
    site.router.play(reply({"error": "no"}, status="400 Bad Request"))
    await site.client.post("/images/generations", json={"model": "org/mirrored", "prompt": "x"})
    assert [visit.path for visit in site.router.visits] == ["/hf-inference/models/org/mirrored"]


async def test_fal_is_shown_the_token_as_the_router_takes_it(site: HubSite) -> None:
    site.hub.models["org/flux"] = model(
        "org/flux", "text-to-image", ("fal-ai", "fal-ai/flux/dev", "text-to-image")
    )
    picture = "data:image/png;base64," + base64.b64encode(PNG).decode()
    site.router.play(reply({"images": [{"url": picture}]}))
    await site.client.post("/images/generations", json={"model": "org/flux", "prompt": "x"})
    [visit] = site.router.visits
    assert visit.path == "/fal-ai/fal-ai/flux/dev"
    assert visit.headers["authorization"] == f"Bearer {TOKEN}"


async def test_what_replicate_keeps_on_an_inner_host_is_not_fetched(site: HubSite) -> None:
    site.hub.models["org/flux"] = model(
        "org/flux", "text-to-image", ("replicate", "black/flux", "text-to-image")
    )
    prediction = {"status": "succeeded", "output": [f"{site.hub_server.url}/secret"]}
    site.router.play(reply(prediction, status="201 Created"))
    response = await site.client.post(
        "/images/generations", json={"model": "org/flux", "prompt": "x"}
    )
    assert error_of(response) == (502, "upstream_error")
    assert site.hub.asked == ["org/flux"]
    [visit] = site.router.visits
    assert visit.path == "/replicate/v1/models/black/flux/predictions"
    assert visit.headers["prefer"] == "wait"


async def test_configured_models_come_first_and_unknown_ones_are_the_hubs(tmp_path: Path) -> None:
    async with hub_site(
        tmp_path,
        upstreams=[{"name": "own", "dialect": "openai", "base_url": "http://127.0.0.1:9"}],
        models=[{"id": "org/llm", "targets": [{"upstream": "own"}]}],
    ) as site:
        site.hub.models["org/other"] = LLM | {"id": "org/other"}
        site.router.play(answer("Hello"))
        assert error_of(await site.chat("org/llm")) == (503, "upstream_unreachable")
        assert (await site.chat("org/other")).status_code == 200
        assert site.hub.asked == ["org/other"]


async def test_the_credential_is_nowhere_but_in_requests_to_the_hub_and_its_router(
    site: HubSite, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    site.router.play(reply({"error": f"{TOKEN} has no access"}, status="400 Bad Request"))
    response = await site.chat("org/llm")
    assert response.status_code == 400
    shown = json.dumps([response.text, *response.headers.items(), *capsys.readouterr()])
    assert TOKEN not in shown + caplog.text
