"""Several targets, fallbacks, and what becomes of the requests when one of them dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import httpx
import pytest

from gateway.keys import parse
from tests.acceptance.recordings import recording
from tests.acceptance.upstreams.conftest import completion, record_of
from tests.acceptance.upstreams.mortal import Mortal
from tests.metered import Metered
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Visit

pytestmark = pytest.mark.anyio

REQUESTS, AT_ONCE = 200, 40
PATIENT = {  # a busy machine is no fault of the server that lives
    "connect_timeout_seconds": PATIENCE_SECONDS,
    "first_byte_timeout_seconds": PATIENCE_SECONDS,
    "timeout_seconds": PATIENCE_SECONDS,
}
OVERLOADED = b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n"
FAILED = b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"
ANSWER = recording("native/plain.answer").whole()


def too_many(seconds: int) -> bytes:
    return b"HTTP/1.1 429 Slow\r\nretry-after: %d\r\ncontent-length: 0\r\n\r\n" % seconds


def model(*upstreams: str, **options: Any) -> dict[str, Any]:
    """Return a model whose targets are at `upstreams`."""
    return {"id": "m", "targets": [{"upstream": name} for name in upstreams], **options}


async def load(client: httpx.AsyncClient, *, stream: bool, on_half: Any) -> list[httpx.Response]:
    """Send all requests, some at once; call `on_half` when half of them are answered."""
    replies: list[httpx.Response] = []
    room = asyncio.Semaphore(AT_ONCE)

    async def one() -> None:
        async with room:
            replies.append(await client.post("/completions", json=completion("m", stream=stream)))
        if len(replies) == REQUESTS // 2:
            on_half()

    await asyncio.gather(*(one() for _ in range(REQUESTS)))
    return replies


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
async def test_of_two_targets_one_is_killed_under_load_and_nobody_notices(start, stream: bool):
    """But for streams that had begun, if any: those end in an error event."""
    with Mortal(seconds=0.05) as doomed, Mortal(seconds=0.05) as other:
        upstreams = {
            name: {"base_url": url, **PATIENT}
            for name, url in (("a", doomed.url), ("b", other.url))
        }
        gateway = await start(upstreams, [model("a", "b")])
        async with gateway.client(await gateway.new_key()) as client:
            replies = await load(client, stream=stream, on_half=doomed.kill)
            assert Counter(reply.status_code for reply in replies) == {200: REQUESTS}
            cut = [reply for reply in replies if '"error":' in reply.text]
            assert not cut or stream
            assert all('"text":' in reply.text.partition('"error":')[0] for reply in cut)
            assert sum("Bye" in reply.text for reply in replies) == REQUESTS - len(cut)
            names = Counter(reply.headers["x-dragoman-upstream"] for reply in replies)
            assert min(names.values()) >= 20

            records = await gateway.records(REQUESTS)
            assert sum(record["status"] == "ok" for record in records) == REQUESTS - len(cut)
            assert sum(record["retries"] for record in records) <= 2 * AT_ONCE

            doomed.start()
            await gateway.until(lambda: asked(client), lambda name: name == "a")


async def leases(gateway: Metered) -> int:
    """Return how many requests are under way."""
    keys = await gateway.state.call("KEYS", "leases:*")
    return sum([await gateway.state.call("HLEN", key) for key in keys])


async def asked(client: httpx.AsyncClient) -> str:
    """Return which upstream answers a request."""
    reply = await client.post("/completions", json=completion("m"))
    assert reply.status_code == 200
    return reply.headers["x-dragoman-upstream"]


async def test_an_outage_of_all_targets_is_not_multiplied(start, first, second):
    first.play(FAILED)
    second.play(FAILED)
    gateway = await start(
        {"a": {"base_url": first.url}, "b": {"base_url": second.url}}, [model("a", "b")]
    )
    async with gateway.client(await gateway.new_key()) as client:
        for _ in range(100):
            reply = await client.post("/completions", json=completion("m"))
            assert reply.status_code == 502
    assert len(first.visits) + len(second.visits) <= 106


async def test_requests_that_share_an_answer_share_its_retry_too(start, first, second):
    clients = 150  # more than may be tried again at once
    all_came = asyncio.Event()

    async def fail(visit: Visit) -> None:
        await all_came.wait()
        await visit.send(FAILED)

    first.play(fail)
    targets = [{"upstream": "a"}, {"upstream": "b", "priority": 1}]
    gateway = await start(
        {"a": {"base_url": first.url}, "b": {"base_url": second.url}},
        [{"id": "m", "targets": targets}],
        cache={"ttl_seconds": 60},
    )
    limits = httpx.Limits(max_connections=clients)
    async with gateway.client(await gateway.new_key(), limits=limits) as client:
        body = completion("m", seed=1)
        asking = [
            asyncio.create_task(client.post("/completions", json=body)) for _ in range(clients)
        ]
        await first.arrival()
        await gateway.until(lambda: leases(gateway), lambda held: held == clients)
        all_came.set()
        replies = await asyncio.gather(*asking)
    assert Counter(reply.status_code for reply in replies) == {200: clients}
    assert (len(first.visits), len(second.visits)) == (1, 1)


async def test_a_target_that_asks_for_time_is_given_it(start, first, second):
    first.play(too_many(30))
    targets = [{"upstream": "a"}, {"upstream": "b", "priority": 1}]
    gateway = await start(
        {"a": {"base_url": first.url}, "b": {"base_url": second.url}},
        [{"id": "m", "targets": targets}],
    )
    async with gateway.client(await gateway.new_key()) as client:
        assert [await asked(client) for _ in range(5)] == ["b"] * 5
    assert len(first.visits) == 1


async def test_several_choices_that_no_target_makes_in_time_are_a_504(start, first, second):
    async def hang(visit: Visit) -> None:
        await visit.gone()

    first.play(OVERLOADED)
    second.play(hang)
    targets = [{"upstream": "a"}, {"upstream": "b", "priority": 1}]
    gateway = await start(
        {
            "a": {"base_url": first.url, "timeout_seconds": 1, "load_wait_seconds": 0},
            "b": {"base_url": second.url, **PATIENT},
        },
        [{"id": "m", "targets": targets}],
    )
    async with gateway.client(await gateway.new_key()) as client:
        reply = await client.post("/completions", json=completion("m", n=3))
    record = await record_of(gateway, reply)
    assert (reply.status_code, reply.json()["error"]["code"]) == (504, "upstream_timeout")
    assert (len(first.visits), len(second.visits), record.retries) == (3, 3, 1)


async def test_another_model_stands_in_when_no_target_can_answer(start, first, second):
    first.play(OVERLOADED)
    models = [
        model("a", fallbacks=["spare"]),
        {"id": "spare", "targets": [{"upstream": "b"}], "price": {"output_usd_per_million": 7.0}},
    ]
    gateway = await start({"a": {"base_url": first.url}, "b": {"base_url": second.url}}, models)
    async with gateway.client(await gateway.new_key()) as client:
        reply = await client.post("/completions", json=completion("m"))
    assert reply.status_code == 200
    assert reply.json()["model"] == "m"
    assert reply.headers["x-dragoman-model"] == "spare"
    record = await record_of(gateway, reply)
    assert (record.model, record.upstream, record.retries) == ("spare", "b", 1)
    assert record.nano_usd == record.output_tokens * 7_000


async def test_a_key_is_not_served_by_a_model_that_it_may_not_use(start, first, second):
    first.play(OVERLOADED)
    models = [model("a", fallbacks=["spare"]), {"id": "spare", "targets": [{"upstream": "b"}]}]
    gateway = await start({"a": {"base_url": first.url}, "b": {"base_url": second.url}}, models)
    key = await gateway.new_key()
    await gateway.book.update_key(str(parse(key)), {"models": ["m"]}, actor="test")
    async with gateway.client(key) as client:
        reply = await client.post("/completions", json=completion("m"))
    assert (reply.status_code, len(second.visits)) == (503, 0)


async def test_a_lost_connection_to_the_only_target_is_made_anew_once(start, first):
    async def hang_up(visit: Visit) -> None:
        visit.close()

    first.play(hang_up, ANSWER)
    gateway = await start({"a": {"base_url": first.url}}, [model("a")])
    async with gateway.client(await gateway.new_key()) as client:
        reply = await client.post("/completions", json=completion("m"))
    record = await record_of(gateway, reply)
    assert (reply.status_code, len(first.visits), record.retries) == (200, 2, 1)


async def test_retries_can_be_turned_off(start, first, second):
    first.play(OVERLOADED)
    targets = [{"upstream": "a"}, {"upstream": "b", "priority": 1}]
    gateway = await start(
        {"a": {"base_url": first.url}, "b": {"base_url": second.url}},
        [{"id": "m", "targets": targets}],
        retries={"attempts": 1},
    )
    async with gateway.client(await gateway.new_key()) as client:
        reply = await client.post("/completions", json=completion("m"))
    assert (reply.status_code, len(second.visits)) == (503, 0)
