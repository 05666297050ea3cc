"""Pictures by address: served by the gateway to whoever has it, for an hour."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest
from openai import AsyncOpenAI

from gateway.image_files import LIFETIME_SECONDS
from tests.gateway.image_route.painting import opened, painted
from tests.gateway.running import envelope
from tests.gateway.test_image_files import age
from tests.gateway_fixture import Gateway
from tests.scripted_upstream import Upstream

pytestmark = pytest.mark.anyio


async def test_an_address_serves_the_picture_without_a_key(
    sdk: AsyncOpenAI, gateway: Gateway
) -> None:
    answer = await sdk.images.generate(
        model="hf/painter",
        prompt="fox",
        n=2,
        response_format="url",
        output_format="webp",
        extra_body={"seed": 3},
    )
    urls = [image.url or "" for image in answer.data or ()]
    assert len(set(urls)) == 2
    pattern = rf"http://127\.0\.0\.1:{gateway.port}/files/[\w-]{{32}}\.webp"
    assert all(re.fullmatch(pattern, url) for url in urls)
    async with httpx.AsyncClient() as stranger:
        fetched = await stranger.get(urls[0])
        head = await stranger.head(urls[0])
    assert fetched.status_code == head.status_code == 200
    assert opened(fetched.content).size == (32, 24)
    assert head.content == b""
    for response in (fetched, head):
        assert response.headers["content-type"] == "image/webp"
        assert response.headers["content-disposition"] == "inline"
        assert response.headers["content-length"] == str(len(fetched.content))
        assert response.headers["x-content-type-options"] == "nosniff"


async def test_a_stream_can_hand_over_addresses_too(http_client: httpx.AsyncClient) -> None:
    wish = {"model": "hf/painter", "prompt": "f", "stream": True, "response_format": "url"}
    answer = await http_client.post("/images/generations", json=wish)
    event = json.loads(answer.text.partition("data: ")[2])
    assert "b64_json" not in event
    assert (await http_client.get(event["url"])).content == painted()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"host": "gateway.example"}, "http://gateway.example/files/"),
        (
            {"host": "gateway.example:8443", "x-forwarded-proto": "https"},
            "https://gateway.example:8443/files/",
        ),
        ({"host": "[::1]:80"}, "http://[::1]:80/files/"),
        ({"host": ""}, "http://127.0.0.1:"),
    ],
)
async def test_an_address_begins_as_the_client_reached_the_gateway(
    http_client: httpx.AsyncClient, headers: Mapping[str, str], expected: str
) -> None:
    wish = {"model": "hf/painter", "prompt": "fox", "response_format": "url"}
    answer = await http_client.post("/images/generations", json=wish, headers=headers)
    assert answer.json()["data"][0]["url"].startswith(expected)


async def test_a_host_that_is_none_never_gets_into_an_address(
    http_client: httpx.AsyncClient, upstream: Upstream
) -> None:
    wish = {"model": "hf/painter", "prompt": "fox", "response_format": "url"}
    headers = {"host": "a/<script>"}
    answer = await http_client.post("/images/generations", json=wish, headers=headers)
    assert answer.status_code == 400
    assert upstream.visits == []


async def test_an_address_is_gone_after_an_hour(
    http_client: httpx.AsyncClient, data_dir: Path
) -> None:
    wish = {"model": "hf/painter", "prompt": "fox", "response_format": "url"}
    answer = await http_client.post("/images/generations", json=wish)
    url = answer.json()["data"][0]["url"]
    path = data_dir / "images" / url.rpartition("/")[2]
    age(path, LIFETIME_SECONDS - 5)
    assert (await http_client.get(url)).status_code == 200
    age(path, LIFETIME_SECONDS + 5)
    gone = await http_client.get(url)
    assert gone.status_code == 404
    assert envelope(gone.content)["code"] == "file_not_found"


@pytest.mark.parametrize("name", ["x" * 32 + ".png", "..%2Fbook.sqlite", "nope", "a.png"])
async def test_an_address_that_was_never_given_out_is_not_found(
    http_client: httpx.AsyncClient, gateway: Gateway, name: str
) -> None:
    answer = await http_client.get(f"http://127.0.0.1:{gateway.port}/files/{name}")
    assert answer.status_code == 404
    assert envelope(answer.content)["type"] == "invalid_request_error"
