"""Whatever a client sends, it gets an error that OpenAI's SDKs can read, and no one else notices.

Over real sockets, because bodies and connections are the subject.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway import protocol, wire
from tests.gateway.running import (
    CHAT,
    Answer,
    Gateway,
    connected,
    request_head,
    serving,
    settings,
    started_gateway,
    unstarted_gateway,
)
from tests.patience import Stopwatch

pytestmark = pytest.mark.anyio

BODY = json.dumps(CHAT).encode()
LIMIT_BYTES = 64 * 1024
LONGEST_MS = 50


@pytest.fixture(scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Gateway]:
    config = settings(max_body_mb=LIMIT_BYTES / 2**20)
    async with unstarted_gateway(tmp_path_factory.mktemp("data"), config) as made:
        yield made


@pytest.fixture(scope="module")
async def module_port(gateway: Gateway) -> AsyncIterator[int]:
    async with serving(gateway.app) as port:
        yield port


@pytest.fixture
async def port(gateway: Gateway, module_port: int) -> AsyncIterator[int]:
    yield module_port
    assert await is_alive(module_port)
    assert gateway.upstream.requests == []


async def is_alive(port: int) -> bool:
    async with connected(port) as client:
        await client.send(b"GET /health HTTP/1.1\r\nhost: gateway\r\n\r\n")
        return (await client.answer()).status == 200


async def ask(port: int, *sent: bytes) -> Answer:
    async with connected(port) as client:
        for data in sent:
            await client.send(data)
        return await client.answer()


def check_refusal(answer: Answer, *, status: int, code: str | None) -> None:
    assert (answer.status, answer.error()["code"]) == (status, code)
    assert answer.error()["type"] == "invalid_request_error"
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "x-request-id" in answer.headers["access-control-expose-headers"]
    assert answer.headers["x-request-id"]


def post(key: str, body: bytes = BODY, **headers: object) -> bytes:
    return request_head(key, **{"content_length": len(body), **headers}) + body


BROKEN_JSON = {
    "empty": b"",
    "truncated": BODY[:-1],
    "trailing": BODY + b"x",
    "bare word": b"hello",
    "NaN": BODY.replace(b"{", b'{"temperature": NaN, ', 1),
    "NaN where anything goes": BODY.replace(b"{", b'{"unknown": [NaN], ', 1),
    "Infinity where anything goes": BODY.replace(b"{", b'{"unknown": -Infinity, ', 1),
    "lone surrogate": BODY.replace(b"Hello", rb"\ud83d"),
    "invalid UTF-8": BODY.replace(b"Hello", b"\xff\xfe"),
    "UTF-16": BODY.decode().encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf" + BODY,
    "raw control character": BODY.replace(b"Hello", b"\x00"),
    "single quotes": BODY.replace(b'"', b"'"),
    "trailing comma": BODY[:-1] + b",}",
    "deep arrays": b"[" * 30_000,
    "deep objects": b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    "a number of 5,000 digits": BODY.replace(b"{", b'{"seed": %s, ' % (b"1" * 5_000), 1),
}


@pytest.mark.parametrize("body", BROKEN_JSON.values(), ids=BROKEN_JSON)
async def test_a_body_that_is_not_json_is_refused(gateway: Gateway, port: int, body: bytes) -> None:
    check_refusal(await ask(port, post(gateway.key, body)), status=400, code="invalid_json")


@pytest.mark.parametrize("body", [b"null", b"[]", b'"text"', b"5", b"true"])
async def test_a_body_that_is_no_object_is_refused(
    gateway: Gateway, port: int, body: bytes
) -> None:
    check_refusal(await ask(port, post(gateway.key, body)), status=400, code="invalid_type")


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "json"],
)
async def test_another_content_type_is_refused(
    gateway: Gateway, port: int, content_type: str
) -> None:
    answer = await ask(port, post(gateway.key, content_type=content_type))
    check_refusal(answer, status=415, code="unsupported_content_type")


async def test_a_length_over_the_limit_is_refused_before_the_body_comes(
    gateway: Gateway, port: int
) -> None:
    answer = await ask(port, request_head(gateway.key, content_length=LIMIT_BYTES + 1))
    check_refusal(answer, status=413, code="request_too_large")


async def test_a_chunked_body_is_refused_where_it_passes_the_limit(
    gateway: Gateway, port: int
) -> None:
    chunk = b"%x\r\n%s\r\n" % (LIMIT_BYTES, b" " * LIMIT_BYTES)
    answer = await ask(port, request_head(gateway.key, transfer_encoding="chunked"), chunk, chunk)
    check_refusal(answer, status=413, code="request_too_large")


@pytest.mark.parametrize("sent", [b"", BODY[:10]], ids=["no byte of it", "the start of it"])
async def test_a_body_that_does_not_come_in_time_is_refused(
    gateway: Gateway, port: int, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_BODY_SECONDS", 0.5)
    answer = await ask(port, request_head(gateway.key, content_length=len(BODY)) + sent)
    check_refusal(answer, status=408, code="request_timeout")


async def test_a_head_that_does_not_come_in_time_is_refused(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.5)
    answer = await ask(port, b"POST /v1/chat/completions HTTP/1.1\r\nhost: ")
    check_refusal(answer, status=408, code="invalid_http")


async def test_a_connection_that_sends_nothing_is_closed(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "_HEAD_SECONDS", 0.5)
    async with connected(port) as client:
        assert await client.is_closed()


@pytest.mark.parametrize("framing", [{"content_length": 999}, {"transfer_encoding": "chunked"}])
async def test_a_client_that_leaves_inside_its_body_leaves_nothing_behind(
    gateway: Gateway, port: int, framing: dict[str, object], caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(port) as client:
        await client.send(request_head(gateway.key, **framing) + b"5\r\nabcde\r\n")
    assert await is_alive(port)
    assert caplog.records == []


NOT_HTTP = {
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "words": b"hello there\r\n\r\n",
    "an unknown version": b"GET / HTTP/9.9\r\n\r\n",
    "bytes in the path": b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
    "a NUL in the path": b"GET /\x00 HTTP/1.1\r\nhost: a\r\n\r\n",
    "CONNECT": b"CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n",
    "a negative length": request_head("x", content_length=-5),
    "an endless length": request_head("x", content_length="9" * 40),
    "two ways to end": request_head("x", content_length=5, transfer_encoding="chunked"),
    "a header without name": b"GET / HTTP/1.1\r\n: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", NOT_HTTP.values(), ids=NOT_HTTP)
async def test_what_is_not_http_is_refused_and_the_connection_closed(
    port: int, sent: bytes
) -> None:
    async with connected(port) as client:
        await client.send(sent)
        check_refusal(await client.answer(), status=400, code="invalid_http")
        assert await client.is_closed()


async def test_a_broken_chunk_is_refused(gateway: Gateway, port: int) -> None:
    head = request_head(gateway.key, transfer_encoding="chunked")
    check_refusal(await ask(port, head, b"zz\r\n"), status=400, code="invalid_http")


BOMBS = {
    "many headers": b"GET /health HTTP/1.1\r\n" + b"a: b\r\n" * 40_000,
    "one long header": b"GET /health HTTP/1.1\r\na: " + b"b" * 200_000,
    "a long path": b"GET /" + b"b" * 200_000,
}


@pytest.mark.parametrize("sent", BOMBS.values(), ids=BOMBS)
async def test_a_head_without_end_is_refused(port: int, sent: bytes) -> None:
    check_refusal(await ask(port, sent), status=431, code="invalid_http")


@pytest.mark.parametrize("protocol_name", ["h2c", "websocket", "TLS/1.3"])
async def test_a_wish_for_another_protocol_is_passed_over(
    gateway: Gateway, port: int, protocol_name: str
) -> None:
    wish = {"connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol_name}
    async with connected(port) as client:
        for _ in range(2):
            await client.send(post(gateway.key, **wish))
            assert (await client.answer()).status == 200
    gateway.upstream.requests.clear()


REFUSED_EARLY = {
    "no key": request_head("").replace(b"authorization: Bearer \r\n", b""),
    "unknown model": b"",
    "wrong JSON": b"",
    "wrong path": b"GET /nope HTTP/1.1\r\nhost: a\r\n\r\n",
    "wrong method": b"DELETE /v1/models HTTP/1.1\r\nhost: a\r\n\r\n",
    "not HTTP": b"hello\r\n\r\n",
}


@pytest.mark.parametrize("kind", REFUSED_EARLY)
async def test_a_refusal_takes_no_time(gateway: Gateway, port: int, kind: str) -> None:
    bodies = {"unknown model": BODY.replace(b"openai/model", b"nope"), "wrong JSON": b"{"}
    sent = post(gateway.key, bodies[kind]) if kind in bodies else REFUSED_EARLY[kind]
    spent_ms = []
    for _ in range(7):
        async with Stopwatch() as watch:
            assert 400 <= (await ask(port, sent)).status < 500
        spent_ms.append(watch.seconds * 1000)
    assert statistics.median(spent_ms) < LONGEST_MS


MANY_ERRORS = {
    "messages": {"messages": [{"role": "user", "content": 5}] * 20_000},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}] * 20_000}]},
    "token biases": {"logit_bias": {str(token): "x" for token in range(20_000)}},
    "stops": {"stop": [5] * 20_000},
    "tools": {"tools": [5] * 20_000},
    "calls": {"messages": [{"role": "assistant", "tool_calls": [5] * 20_000}]},
}


@pytest.mark.parametrize("wrong", MANY_ERRORS.values(), ids=MANY_ERRORS)
async def test_twenty_thousand_errors_in_one_body_are_refused_as_fast_as_one(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    body = json.dumps({**CHAT, **wrong}).encode()
    spent_ms = []
    async with started_gateway(tmp_path) as gateway, gateway.client() as client:
        for _ in range(5):
            began = time.process_time()  # nothing is waited for
            answer = await client.post("/v1/chat/completions", content=body)
            spent_ms.append((time.process_time() - began) * 1000)
            assert answer.status_code == 400
    assert min(spent_ms) < LONGEST_MS


async def test_bad_clients_do_not_hold_up_good_ones(gateway: Gateway, port: int) -> None:
    async with asyncio.TaskGroup() as bad:
        for sent in [*BROKEN_JSON.values()] * 5:
            bad.create_task(ask(port, post(gateway.key, sent)))
        for sent in [*NOT_HTTP.values(), *BOMBS.values()] * 5:
            bad.create_task(ask(port, sent))
        assert await asyncio.wait_for(is_alive(port), timeout=10)
