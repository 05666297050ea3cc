"""Servers that stop when idle: by 502 and 503 they say that they start, by a header they wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import httpx
import pytest

from gateway.config_catalog import Upstream as UpstreamSettings
from tests.acceptance.recordings import recording
from tests.acceptance.test_cold_start import loading
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Visit

pytestmark = pytest.mark.anyio

ANSWER = recording("native/plain.answer").whole()
HEADER = "x-scale-up-timeout"


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        yield client


def starting(status: bytes, *headers: bytes) -> bytes:
    """Return what a proxy says whose server is starting, in the form of a page."""
    body = b"<html>starting</html>"
    lines = [*headers, b"content-type: text/html", b"content-length: %d" % len(body)]
    return b"HTTP/1.1 %b\r\n%b\r\n\r\n%b" % (status, b"\r\n".join(lines), body)


SOON = b"retry-after: 1"
BAD_GATEWAY, UNAVAILABLE = b"502 Bad Gateway", b"503 Service Unavailable"


async def ask(gateway, http, **headers: str) -> httpx.Response:
    given = gateway.headers | headers
    body = {"model": "m", "prompt": "Hi"}
    return await http.post(f"{gateway.base_url}/completions", json=body, headers=given)


@pytest.mark.parametrize("status", [BAD_GATEWAY, UNAVAILABLE])
async def test_one_that_is_starting_is_waited_for(start_gateway, upstream, http, status):
    upstream.play(starting(status, SOON), ANSWER)
    gateway = await start_gateway(scale_to_zero=True, load_wait_seconds=7.5)
    assert (await ask(gateway, http)).status_code == 200
    first, second = upstream.visits
    assert HEADER not in first.headers
    assert second.headers[HEADER] == "8"


async def test_while_one_request_is_held_there_the_others_wait_here(start_gateway, upstream, http):
    release = asyncio.Event()

    async def hold(visit: Visit) -> None:
        await release.wait()
        await visit.send(ANSWER)

    upstream.play(starting(UNAVAILABLE, SOON), hold)
    gateway = await start_gateway(scale_to_zero=True)
    asking = [asyncio.create_task(ask(gateway, http))]
    for _ in range(2):
        await upstream.arrival()
    asking += [asyncio.create_task(ask(gateway, http)) for _ in range(5)]
    await asyncio.sleep(3)  # longer than a server that does not hold requests may be silent
    assert len(upstream.visits) == 2
    release.set()
    assert {reply.status_code for reply in await asyncio.gather(*asking)} == {200}


@pytest.mark.parametrize(("status", "told"), [(BAD_GATEWAY, 502), (UNAVAILABLE, 503)])
async def test_one_that_never_stops_has_failed(start_gateway, upstream, http, status, told):
    upstream.play(starting(status))
    gateway = await start_gateway()
    reply = await ask(gateway, http)
    assert reply.status_code == told
    assert reply.json()["error"]["code"] != "model_loading"
    assert not any(HEADER in visit.headers for visit in upstream.visits)


async def test_a_client_that_does_not_wait_is_told_when_to_come(start_gateway, upstream, http):
    upstream.play(starting(UNAVAILABLE))
    gateway = await start_gateway(scale_to_zero=True)
    reply = await ask(gateway, http, **{"x-wait-for-model": "0"})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "20")
    assert reply.json()["error"]["code"] == "model_loading"


async def test_an_estimate_that_never_shrinks_counts_from_the_first_time(
    start_gateway, upstream, http
):
    upstream.play(loading(5))
    gateway = await start_gateway(load_wait_seconds=2)
    told = []
    began = time.monotonic()
    for _ in range(3):
        reply = await ask(gateway, http, **{"x-wait-for-model": "0"})
        told.append(int(reply.headers["retry-after"]))
    assert told[0] == 5
    # The third was held for a while, which the estimate is shorter by then.
    assert time.monotonic() - began > 1.9
    assert told[-1] < told[0]
    assert all(1 <= seconds <= 5 for seconds in told)


@pytest.mark.parametrize(
    ("host", "given", "sleeps"),
    [
        ("a1b2.eu-west-1.aws.endpoints.huggingface.cloud", {}, True),
        ("a1b2.eu-west-1.aws.endpoints.huggingface.cloud", {"scale_to_zero": False}, False),
        ("router.huggingface.co", {}, False),
        ("endpoints.huggingface.cloud.example.com", {}, False),
        ("models.example.com", {"scale_to_zero": True}, True),
    ],
)
async def test_inference_endpoints_are_known_by_their_addresses(host, given, sleeps):
    options = {"name": "u", "dialect": "hf", "base_url": f"https://{host}"} | given
    assert UpstreamSettings.model_validate(options).sleeps is sleeps
