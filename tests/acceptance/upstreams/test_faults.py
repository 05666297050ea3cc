"""What an upstream does wrong: what the client gets, what the ledger says, and who was asked.

Each fault is played by a model's only target, and by the first of two. `calls` are those to the
faulty target when it is the only one; beside a second one it is asked once, and the client never
learns of what came before its first byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import httpx
import pytest

from tests.acceptance.recordings import LAST_CHUNK, chunk, recording
from tests.acceptance.upstreams.conftest import (
    NOWHERE,
    TIMES,
    completion,
    gateway_of,
    record_of,
)
from tests.metered import Metered
from tests.patience import within
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

LONGEST_SECONDS = TIMES["timeout_seconds"] + TIMES["load_wait_seconds"]
STREAM, WHOLE = recording("native/plain.stream"), recording("native/plain.answer")
SLOW = 0.02

Player = Callable[[Visit], Awaitable[None]]


def plays(*parts: bytes, then: str = "") -> Player:
    """Return what sends `parts`, and closes, resets or hangs."""

    async def play(visit: Visit) -> None:
        await visit.send(*parts)
        if then == "hang":
            await visit.left.wait()
        elif then:
            getattr(visit, then)()

    return play


def refusal(status: str, body: bytes = b"", **headers: str) -> Player:
    lines = [f"HTTP/1.1 {status}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return plays("\r\n".join([*lines, "", ""]).encode() + body)


async def drip(visit: Visit) -> None:
    """Send an answer that never ends, a byte at a time: comments, to a client of events."""
    await visit.send(STREAM.chunked())
    while not visit.left.is_set():
        await visit.send(chunk(b":"))
        await asyncio.sleep(SLOW)


LOADING = b'{"error":"Model m is currently loading","estimated_time":%g}'
HALF = WHOLE.whole()[:-20]


@dataclass(frozen=True, slots=True)
class Fault:
    """`begins`: a streaming client has had its first event by then, and gets an error event."""

    play: Player
    status: int
    code: str
    calls: int = 1
    streams: tuple[bool, ...] = (False, True)
    begins: bool = False
    retry_after: str | None = None
    upstream: str = "first"


FAULTS = {
    "refuses connections": Fault(plays(), 503, "upstream_unreachable", 0, upstream="nowhere"),
    "hangs up unheard": Fault(plays(then="close"), 502, "upstream_error", 2),
    "resets the connection": Fault(plays(then="reset"), 502, "upstream_error", 2),
    "hangs before the first byte": Fault(plays(then="hang"), 504, "upstream_timeout"),
    "hangs after the head": Fault(plays(STREAM.chunked(), then="hang"), 504, "upstream_timeout"),
    "hangs after the first event": Fault(
        plays(STREAM.chunked(*STREAM.events[:2]), then="hang"),
        504,
        "upstream_timeout",
        streams=(True,),
        begins=True,
    ),
    "hangs in a whole answer": Fault(
        plays(HALF, then="hang"), 504, "upstream_timeout", streams=(False,)
    ),
    "is asked too often": Fault(
        refusal("429 Too Many Requests", retry_after="7"),
        429,
        "rate_limit_exceeded",
        retry_after="7",
    ),
    "fails": Fault(
        refusal("500 Internal Server Error", b'{"error":"oops"}'), 502, "upstream_error"
    ),
    "has a bad gateway before it": Fault(refusal("502 Bad Gateway"), 502, "upstream_error"),
    "is overloaded": Fault(refusal("503 Service Unavailable"), 503, "upstream_overloaded"),
    "is loading for long": Fault(
        refusal("503 Service Unavailable", LOADING % 20),
        503,
        "model_loading",
        retry_after="20",
    ),
    "says under 200 that it is loading": Fault(
        refusal("200 OK", LOADING % 20, content_type="application/json"),
        503,
        "model_loading",
        retry_after="20",
    ),
    "is cut in its first event": Fault(
        plays(STREAM.chunked(STREAM.events[0][:30]), then="close"),
        502,
        "upstream_error",
        streams=(True,),
    ),
    "is cut in a later event": Fault(
        plays(STREAM.chunked(*STREAM.events[:2], STREAM.events[2][:30]), then="close"),
        502,
        "upstream_error",
        streams=(True,),
        begins=True,
    ),
    "is cut in a whole answer": Fault(
        plays(HALF, then="close"), 502, "upstream_error", streams=(False,)
    ),
    "sends garbage": Fault(
        refusal("200 OK", b"\x00\xff{[", content_type="application/json"), 502, "upstream_error"
    ),
    "sends garbage as events": Fault(
        plays(STREAM.chunked(b"data: {]\n\n") + LAST_CHUNK),
        502,
        "upstream_error",
        streams=(True,),
    ),
    "reports an error under 200": Fault(
        refusal("200 OK", b'{"error":"CUDA out of memory"}', content_type="application/json"),
        502,
        "upstream_error",
    ),
    "is gone": Fault(refusal("410 Gone"), 502, "upstream_misconfigured"),
    "wants money": Fault(refusal("402 Payment Required"), 402, "insufficient_quota"),
    "does not have the model": Fault(refusal("404 Not Found"), 404, "model_not_found"),
    "drips": Fault(drip, 504, "upstream_timeout"),
}
CASES = [
    pytest.param(fault, stream, id=f"{name}, {'streamed' if stream else 'whole'}")
    for name, fault in FAULTS.items()
    for stream in fault.streams
]
NUMBERS = {id(fault): number for number, fault in enumerate(FAULTS.values())}


def name_of(kind: str, fault: Fault, stream: bool) -> str:
    """Return a model of the case's own: what came before says nothing of its targets."""
    return f"{kind}-{NUMBERS[id(fault)]}-{stream}"


@pytest.fixture(scope="module")
async def gateway(
    pair: tuple[Upstream, Upstream], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Metered]:
    """A gateway with two models for each case."""
    first, second = pair
    upstreams = {
        "first": {"base_url": first.url},
        "second": {"base_url": second.url, "first_byte_timeout_seconds": 30, "timeout_seconds": 30},
        "nowhere": {"base_url": NOWHERE},
    }
    models = []
    for fault in FAULTS.values():
        for stream in fault.streams:
            faulty, sound = {"upstream": fault.upstream}, {"upstream": "second", "priority": 1}
            models.append({"id": name_of("lone", fault, stream), "targets": [faulty]})
            models.append({"id": name_of("pair", fault, stream), "targets": [faulty, sound]})
    folder = tmp_path_factory.mktemp("gateway")
    async with gateway_of(folder, upstreams, models) as metered:
        yield metered


@pytest.fixture(scope="module")
async def client(gateway: Metered) -> AsyncIterator[httpx.AsyncClient]:
    async with gateway.client(await gateway.new_key()) as http:
        yield http


@pytest.mark.parametrize(("fault", "stream"), CASES)
async def test_a_fault_of_the_only_target(
    gateway, client, first, fault: Fault, stream: bool
) -> None:
    first.play(fault.play)
    body = completion(name_of("lone", fault, stream), stream=stream)
    async with within(LONGEST_SECONDS + 1):
        reply = await client.post("/completions", json=body)

    if fault.begins:
        assert reply.status_code == 200
        assert f'"code":"{fault.code}"' in reply.text
        assert "[DONE]" not in reply.text
    else:
        assert (reply.status_code, reply.json()["error"]["code"]) == (fault.status, fault.code)
    assert reply.headers.get("retry-after") == fault.retry_after
    assert len(first.visits) == fault.calls
    record = await record_of(gateway, reply)
    assert (record.status, record.finish) == ("error", fault.code)
    assert record.upstream == fault.upstream
    assert (record.output_tokens > 0) is fault.begins
    if not fault.begins:
        assert record.nano_usd == 0


@pytest.mark.parametrize(("fault", "stream"), CASES)
async def test_a_fault_of_the_first_of_two_targets(
    gateway, client, first, second, fault: Fault, stream: bool
) -> None:
    first.play(fault.play)
    body = completion(name_of("pair", fault, stream), stream=stream)
    async with within(LONGEST_SECONDS + 1):
        reply = await client.post("/completions", json=body)

    record = await record_of(gateway, reply)
    assert len(first.visits) == min(fault.calls, 1)
    if fault.begins:
        assert f'"code":"{fault.code}"' in reply.text
        assert (record.upstream, record.retries, len(second.visits)) == (fault.upstream, 0, 0)
        return
    assert reply.status_code == 200
    assert "Hello" in reply.text
    assert reply.headers["x-dragoman-upstream"] == "second"
    assert (record.status, record.upstream, record.retries) == ("ok", "second", 1)
    assert (record.output_tokens, record.estimated) == (8, False)
    assert len(second.visits) == 1


async def test_what_the_client_has_to_mend_is_not_tried_elsewhere(
    gateway, client, first, second
) -> None:
    first.play(refusal("422 Unprocessable", b'{"error":"bad","error_type":"validation"}'))
    reply = await client.post("/completions", json=completion("pair-1-True"))
    assert reply.status_code == 400
    assert (len(first.visits), len(second.visits)) == (1, 0)
