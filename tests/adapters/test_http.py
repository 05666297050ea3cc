"""Conformance of upstream I/O: exact bytes over real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from adapters.base import Call
from adapters.errors import (
    Interrupted,
    Misconfigured,
    ModelMissing,
    TimedOut,
    Unreachable,
    UpstreamError,
)
from adapters.http import Reply, Timeouts, Upstream
from adapters.transport import Transport
from tests.patience import PATIENCE_SECONDS, within

pytestmark = pytest.mark.anyio

SECRET = "hf_never_to_be_seen"
CALL = Call(path="/models/m", body=b'{"inputs": "hi"}')
HELLO = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def request(self) -> bytes:
        """Read one request with its body. Raises IncompleteReadError when the client leaves."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
        return head + await self._reader.readexactly(length)

    async def send(self, *parts: bytes) -> None:
        """Write `parts`; the loop turns between them, so that each is read on its own."""
        for part in parts:
            self._writer.write(part)
            await self._writer.drain()
            await asyncio.sleep(0)
            await asyncio.sleep(0)

    def reset(self) -> None:
        """Close with an RST instead of a FIN."""
        linger = bytes([1, 0, 0, 0, 0, 0, 0, 0])
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    async def client_left(self) -> None:
        """Wait until the client has closed the connection."""
        with suppress(ConnectionError):
            while await self._reader.read(65_536):
                pass

    async def close(self) -> None:
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


Script = Callable[[Peer], Awaitable[None]]


class Server:
    """Runs `script` once per connection and counts the connections."""

    def __init__(self, script: Script) -> None:
        self.connections = 0
        self.url = ""
        self._script = script
        self._tasks: set[asyncio.Task[None]] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = Peer(reader, writer)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                await self._script(peer)
        finally:
            await peer.close()
            self._tasks.discard(task)

    async def end(self) -> None:
        for task in (tasks := list(self._tasks)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def serving(script: Script) -> AsyncIterator[Server]:
    server = Server(script)
    listener = await asyncio.start_server(server.accept, "127.0.0.1", 0, backlog=1024)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()
        await server.end()


def answering(*parts: bytes) -> Script:
    """Return a script that sends `parts` for every request on a connection."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(*parts)

    return script


def answering_once(*parts: bytes) -> Script:
    """Return a script that closes the connection after `parts`."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*parts)

    return script


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.client_left()


@pytest.fixture
async def transport() -> AsyncIterator[Transport]:
    transport = Transport()
    yield transport
    await transport.aclose()


def upstream_at(
    url: str, transport: httpx.AsyncBaseTransport, *, timeouts: Timeouts | None = None
) -> Upstream:
    headers = {"Authorization": f"Bearer {SECRET}"}
    return Upstream(
        "hf", url, transport=transport, headers=headers, timeouts=timeouts or Timeouts()
    )


async def fetch(server: Server, transport: Transport) -> tuple[Reply, bytes]:
    reply = await upstream_at(server.url, transport).open(CALL)
    return reply, await reply.read(1_000_000)


async def test_sends_its_own_headers_and_the_calls_and_nothing_else(transport: Transport) -> None:
    requests = []

    async def script(peer: Peer) -> None:
        requests.append(await peer.request())
        await peer.send(HELLO)

    call = Call(path="/models/m", body=b"{}", headers={"Accept": "text/event-stream"})
    async with serving(script) as server:
        upstream = upstream_at(server.url + "/base/", transport)
        reply = await upstream.open(call, headers={"x-request-id": "r1", "authorization": "other"})
        assert await reply.read(10) == b"hello"
    head, _, body = requests[0].partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert line == "POST /base/models/m HTTP/1.1"
    assert body == b"{}"
    assert sorted(headers) == [
        "accept-encoding: identity",
        "accept: text/event-stream",
        f"authorization: Bearer {SECRET}",
        "content-length: 2",
        "content-type: application/json",
        "host: " + server.url.removeprefix("http://"),
        "user-agent: dragoman/0.1",
        "x-request-id: r1",
    ]


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/models/meta-llama/Llama-3:free", "/models/meta-llama/Llama-3:free"),
        ("/models/a b?c#d", "/models/a%20b%3Fc%23d"),
        ("/models/é", "/models/%C3%A9"),
        ("/models/..%2f..", "/models/..%252f.."),
        ("/models/a\\..\\b\r\nx: y", "/models/a%5C..%5Cb%0D%0Ax:%20y"),
    ],
)
async def test_path_keeps_its_slashes_and_percent_encodes_what_is_odd(path: str, sent: str) -> None:
    urls = []

    def answer(request: httpx.Request) -> httpx.Response:
        urls.append(request.url.raw_path.decode())
        return httpx.Response(200)

    await upstream_at("http://h/v1", httpx.MockTransport(answer)).open(Call(path=path, body=b""))
    assert urls == ["/v1" + sent]


@pytest.mark.parametrize("path", ["/models/../admin", "/models/./m", "/models/m/.."])
async def test_path_cannot_climb_out_of_the_base_url(path: str) -> None:
    upstream = upstream_at("http://h/v1", httpx.MockTransport(lambda _: httpx.Response(200)))
    with pytest.raises(ModelMissing):
        await upstream.open(Call(path=path, body=b""))


async def test_works_with_any_httpx_transport() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(429, text="no", headers={"A": "b"}))
    reply = await upstream_at("http://h", transport).open(CALL)
    assert (reply.status, reply.headers["a"], await reply.read(2)) == (429, "b", b"no")


def splits_of_chunked() -> Iterator[list[bytes]]:
    framed = b"5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nx-trailer: t\r\n\r\n"
    for at in range(1, len(framed)):
        yield [CHUNKED + framed[:at], framed[at:]]
    yield [bytes([byte]) for byte in CHUNKED + framed]
    yield [CHUNKED + framed]


async def test_chunked_body_is_read_however_its_framing_is_split(transport: Transport) -> None:
    answers = list(splits_of_chunked())

    async def script(peer: Peer) -> None:
        for parts in answers:
            await peer.request()
            await peer.send(*parts)

    async with serving(script) as server:
        for _ in answers:
            reply, body = await fetch(server, transport)
            assert body == b"hello world"
            assert "x-trailer" not in reply.headers
        assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b""),
        (CHUNKED + b"0\r\n\r\n", 200, b""),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b""),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + HELLO, 200, b"hello"),
        (
            b"HTTP/1.1 103 Early Hints\r\nlink: l\r\ncontent-length: 3\r\n\r\n" + HELLO,
            200,
            b"hello",
        ),
        (b"HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", 302, b""),
    ],
    ids=["length-0", "chunked-empty", "204", "100", "103", "302-is-not-followed"],
)
async def test_answer_ends_where_its_framing_says(
    transport: Transport, answer: bytes, status: int, body: bytes
) -> None:
    async with serving(answering(answer)) as server:
        for _ in range(2):
            reply, received = await fetch(server, transport)
            assert (reply.status, received) == (status, body)
            assert "link" not in reply.headers
        assert server.connections == 1


async def test_body_without_a_length_ends_with_the_connection(transport: Transport) -> None:
    async with serving(answering_once(b"HTTP/1.0 200 OK\r\n\r\n", b"hel", b"lo")) as server:
        assert (await fetch(server, transport))[1] == b"hello"


async def test_headers_ignore_case_join_repeats_and_survive_odd_bytes(transport: Transport) -> None:
    head = b"HTTP/1.1 200 OK\r\nX-One: 1\r\nx-odd: \xe9\r\nX-ONE: 2\r\ncontent-length: 0\r\n\r\n"
    async with serving(answering(head)) as server:
        reply, _ = await fetch(server, transport)
    assert reply.headers["x-One"] == "1, 2"
    assert reply.headers["X-Odd"] == "é"


async def test_first_bytes_arrive_before_more_follow(transport: Transport) -> None:
    received = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"a\r\n0123456789\r\n")
        await received.wait()
        await peer.send(b"1\r\n!\r\n0\r\n\r\n")

    async with serving(script) as server, asyncio.timeout(PATIENCE_SECONDS):
        reply = await upstream_at(server.url, transport).open(CALL)
        chunks = reply.chunks()
        assert await anext(chunks) == b"0123456789"
        received.set()
        assert [chunk async for chunk in chunks] == [b"!"]


BROKEN = {
    "closed-before-head": [],
    "closed-inside-head": [b"HTTP/1.1 200 OK\r\ncontent-le"],
    "not-http": [b"220 mail.example ESMTP\r\n"],
    "not-http-then-silence": [b"hello\r\n\r\n"],
    "length-too-long": [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"],
    "chunked-without-end": [CHUNKED + b"5\r\nhello\r\n"],
    "chunk-cut-short": [CHUNKED + b"5\r\nhel"],
    "chunk-size-no-number": [CHUNKED + b"5\r\nhello\r\nzz\r\n"],
    "two-framings": [b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n" + CHUNKED[17:] + b"0\r\n\r\n"],
    "switched-protocols": [b"HTTP/1.1 101 No\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"],
    "compressed-unasked": [b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n", HELLO[17:]],
}


@pytest.mark.parametrize("parts", BROKEN.values(), ids=BROKEN)
async def test_answer_that_breaks_the_protocol_is_interrupted(
    transport: Transport, parts: list[bytes]
) -> None:
    async with serving(answering_once(*parts)) as server:
        with pytest.raises(Interrupted, match="'hf'") as caught:
            await fetch(server, transport)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [HELLO[:20]],
        [HELLO[:-5]],
        [CHUNKED + b"5\r\nhello\r\n"],
        [b"HTTP/1.0 200 OK\r\n\r\n", b"hello"],
    ],
    ids=["before-head", "inside-head", "after-head", "inside-body", "body-without-length"],
)
async def test_reset_is_interrupted_because_the_request_was_sent(
    transport: Transport, parts: list[bytes]
) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*parts)
        peer.reset()

    async with serving(script) as server:
        with pytest.raises(Interrupted):
            await fetch(server, transport)


async def test_head_without_end_is_interrupted(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nx: " + bytes([120]) * 200_000)
        await peer.client_left()

    async with serving(script) as server, asyncio.timeout(PATIENCE_SECONDS):
        with pytest.raises(Interrupted):
            await fetch(server, transport)


async def test_what_came_before_a_reset_is_still_handed_out(transport: Transport) -> None:
    async with serving(answering_once(CHUNKED + b"5\r\nhello\r\n")) as server:
        reply = await upstream_at(server.url, transport).open(CALL)
        chunks = reply.chunks()
        assert await anext(chunks) == b"hello"
        with pytest.raises(Interrupted):
            await anext(chunks)


async def test_connection_is_reused_after_a_full_read(transport: Transport) -> None:
    async with serving(answering(HELLO)) as server:
        for _ in range(5):
            assert (await fetch(server, transport))[1] == b"hello"
        assert server.connections == 1


@pytest.mark.parametrize("parts", [[HELLO + b"HTTP/1.1 200 OK\r\n"], [HELLO, b"junk"]])
async def test_connection_with_an_unasked_answer_is_not_reused(
    transport: Transport, parts: list[bytes]
) -> None:
    sent: asyncio.Queue[None] = asyncio.Queue()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*parts)
        sent.put_nowait(None)
        await peer.client_left()

    async with serving(script) as server, asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(2):
            assert (await fetch(server, transport))[1] == b"hello"
            await sent.get()
        assert server.connections == 2


async def test_connection_that_the_server_closed_while_idle_is_replaced(
    transport: Transport,
) -> None:
    closed: asyncio.Queue[None] = asyncio.Queue()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HELLO)
        await peer.close()
        closed.put_nowait(None)

    async with serving(script) as server, asyncio.timeout(PATIENCE_SECONDS):
        for _ in range(20):
            assert (await fetch(server, transport))[1] == b"hello"
            await closed.get()
        assert server.connections == 20


async def test_connection_that_the_server_says_it_closes_is_not_reused(
    transport: Transport,
) -> None:
    last = HELLO.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    async with serving(answering(last)) as server:
        for _ in range(2):
            assert (await fetch(server, transport))[1] == b"hello"
        assert server.connections == 2


async def test_hang_up_that_the_loop_has_not_seen_yet_is_noticed(transport: Transport) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    def answer_once() -> socket.socket:
        client, _ = listener.accept()
        client.recv(65_536)
        client.sendall(HELLO)
        return client

    with listener:
        upstream = upstream_at(url, transport)
        for _ in range(3):
            served = asyncio.create_task(asyncio.to_thread(answer_once))
            reply = await upstream.open(CALL)
            client = await served
            assert await reply.read(5) == b"hello"
            client.close()  # no await until the next request: only the kernel knows
        assert client.fileno() == -1


async def test_connection_idle_for_too_long_is_not_reused() -> None:
    transport = Transport(idle_seconds=0.01)
    async with serving(answering(HELLO)) as server:
        await fetch(server, transport)
        await asyncio.sleep(0.02)
        await fetch(server, transport)
        assert server.connections == 2
        await transport.aclose()


async def test_no_more_connections_stay_idle_than_allowed() -> None:
    transport, everyone = Transport(idle_connections=2), asyncio.Barrier(5)
    left: asyncio.Queue[None] = asyncio.Queue()

    async def script(peer: Peer) -> None:
        await peer.request()
        await everyone.wait()
        await peer.send(HELLO)
        await peer.client_left()
        left.put_nowait(None)

    async with serving(script) as server, asyncio.timeout(PATIENCE_SECONDS):
        await asyncio.gather(*(fetch(server, transport) for _ in range(5)))
        for _ in range(3):
            await left.get()
        assert left.empty()
        await transport.aclose()
        for _ in range(2):
            await left.get()


async def test_request_is_not_sent_twice_when_its_connection_breaks(transport: Transport) -> None:
    requests = 0

    async def script(peer: Peer) -> None:
        nonlocal requests
        await peer.request()
        requests += 1
        await peer.send(HELLO)
        await peer.request()
        requests += 1
        peer.reset()

    async with serving(script) as server:
        await fetch(server, transport)
        with pytest.raises(Interrupted):
            await fetch(server, transport)
        assert requests == 2


@pytest.mark.parametrize("parts", [[], [HELLO[:-2]]], ids=["before-head", "mid-body"])
async def test_cancellation_closes_the_connection_at_once(
    transport: Transport, parts: list[bytes]
) -> None:
    waiting, left = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(*parts)
        waiting.set()
        await peer.client_left()
        left.set()

    async with serving(script) as server:
        task = asyncio.create_task(fetch(server, transport))
        await waiting.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with within(1):
            await left.wait()


async def test_aclose_inside_the_body_closes_the_connection_and_may_be_repeated(
    transport: Transport,
) -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        await peer.client_left()
        left.set()

    async with serving(script) as server:
        reply = await upstream_at(server.url, transport).open(CALL)
        chunks = reply.chunks()
        assert await anext(chunks) == b"hello"
        await reply.aclose()
        await reply.aclose()
        async with within(1):
            await left.wait()
        with pytest.raises(Interrupted):
            await anext(chunks)


async def test_body_over_the_limit_is_interrupted_and_closed(transport: Transport) -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        await peer.client_left()
        left.set()

    async with serving(script) as server:
        reply = await upstream_at(server.url, transport).open(CALL)
        with pytest.raises(Interrupted, match="4 bytes"):
            await reply.read(4)
        async with within(1):
            await left.wait()


async def test_slow_reader_stops_its_upstream(transport: Transport) -> None:
    size_bytes, written = 64 * 1024 * 1024, asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size_bytes)
        for _ in range(64):
            await peer.send(bytes(size_bytes // 64))
        written.set()

    async with serving(script) as server:
        reply = await upstream_at(server.url, transport).open(CALL)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(written.wait(), 0.3)
        sizes = [len(chunk) async for chunk in reply.chunks()]
        assert sum(sizes) == size_bytes
        assert max(sizes) < 1_000_000
        await reply.aclose()


async def test_refused_connection_is_unreachable(transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unreachable, match="'hf'"):
        await upstream_at(f"http://127.0.0.1:{port}", transport).open(CALL)


async def test_unknown_host_is_unreachable(transport: Transport) -> None:
    with pytest.raises(Unreachable):
        await upstream_at("http://nowhere.invalid", transport).open(CALL)


async def test_failed_tls_handshake_is_unreachable(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        await peer.send(b"this is no TLS\r\n")

    async with serving(script) as server:
        upstream = upstream_at(server.url.replace("http:", "https:"), transport)
        with pytest.raises(Unreachable):
            await upstream.open(CALL)


async def test_connect_timeout_is_unreachable(transport: Transport) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(4)]  # a full backlog drops what comes next
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        upstream = upstream_at(
            f"http://127.0.0.1:{address[1]}", transport, timeouts=Timeouts(connect_seconds=0.1)
        )
        with pytest.raises(Unreachable, match="in time"):
            await upstream.open(CALL)
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize(
    "timeouts", [Timeouts(first_byte_seconds=0.05), Timeouts(total_seconds=0.05)]
)
async def test_late_head_is_timed_out(transport: Transport, timeouts: Timeouts) -> None:
    async with serving(silent) as server:
        with pytest.raises(TimedOut, match="'hf'"):
            await upstream_at(server.url, transport, timeouts=timeouts).open(CALL)


async def test_late_end_is_timed_out_however_lively_the_body(transport: Transport) -> None:
    left = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        with suppress(ConnectionError):
            while True:
                await peer.send(b"1\r\n.\r\n")
                await asyncio.sleep(0.01)
        left.set()

    timeouts = Timeouts(first_byte_seconds=5, total_seconds=1)
    async with serving(script) as server:
        started = asyncio.get_running_loop().time()
        reply = await upstream_at(server.url, transport, timeouts=timeouts).open(CALL)
        async with within(3):
            with pytest.raises(TimedOut):
                await reply.read(1_000_000)
        assert asyncio.get_running_loop().time() - started > 0.95
        async with within(1):
            await left.wait()


async def test_first_byte_timeout_does_not_limit_the_body(transport: Transport) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(HELLO[:-1])
        await asyncio.sleep(1.2)
        await peer.send(HELLO[-1:])

    async with serving(script) as server:
        upstream = upstream_at(server.url, transport, timeouts=Timeouts(first_byte_seconds=0.6))
        reply = await upstream.open(CALL)
        assert await reply.read(5) == b"hello"


async def test_proxy_variables_are_ignored(
    transport: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with serving(answering(HELLO)) as server:
        assert (await fetch(server, transport))[1] == b"hello"


async def test_line_break_in_a_header_is_not_sent(transport: Transport) -> None:
    async with serving(answering(HELLO)) as server:
        upstream = upstream_at(server.url, transport)
        with pytest.raises(Misconfigured):
            await upstream.open(CALL, headers={"x-request-id": "a\r\nx-admin: 1"})


@pytest.mark.parametrize("secret", [SECRET + "\n", SECRET + "é", SECRET + "\0"])
async def test_unsendable_credential_is_refused_without_showing_it(
    transport: Transport, secret: str
) -> None:
    with pytest.raises(ValueError, match="'authorization' of upstream 'hf'") as caught:
        Upstream(
            "hf",
            "http://h",
            transport=transport,
            headers={"authorization": secret},
            timeouts=Timeouts(),
        )
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "h:80", "ftp://h", f"http://u:{SECRET}@h", f"http://h?k={SECRET}", "http://"]
)
async def test_base_url_that_is_none_is_refused_without_showing_it(
    transport: Transport, url: str
) -> None:
    with pytest.raises(ValueError, match="base_url of upstream 'hf'") as caught:
        upstream_at(url, transport)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


async def test_a_thousand_streams_run_at_once(transport: Transport) -> None:
    everyone, count = asyncio.Event(), 0

    async def script(peer: Peer) -> None:
        nonlocal count
        await peer.request()
        await peer.send(CHUNKED + b"5\r\nhello\r\n")
        count += 1
        if count == 1000:
            everyone.set()
        await everyone.wait()
        await peer.send(b"1\r\n!\r\n0\r\n\r\n")
        await peer.client_left()

    async with serving(script) as server, asyncio.timeout(PATIENCE_SECONDS):
        bodies = await asyncio.gather(*(fetch(server, transport) for _ in range(1000)))
        assert {body for _, body in bodies} == {b"hello!"}
        assert server.connections == 1000
        await transport.aclose()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_sockets() -> int:
    count = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own descriptor
            count += str(descriptor.readlink()).startswith("socket:")
    return count


@pytest.mark.parametrize(
    "requests", [5_000, pytest.param(100_000, marks=pytest.mark.slow)], ids=["5k", "100k"]
)
async def test_neither_memory_nor_sockets_leak(transport: Transport, requests: int) -> None:
    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(HELLO)
            await peer.request()
            await peer.send(CHUNKED + b"5\r\nhello\r\n0\r\n\r\n")

    async def work(upstream: Upstream, count: int) -> None:
        for number in range(count):
            reply = await upstream.open(CALL)
            if number % 50:
                assert await reply.read(5) == b"hello"
            await reply.aclose()

    sockets = open_sockets()
    async with serving(script) as server:
        upstream = upstream_at(server.url, transport)
        await work(upstream, 1000)
        gc.collect()
        before = resident_bytes()
        await asyncio.gather(*(work(upstream, requests // 10) for _ in range(10)))
        gc.collect()
        assert resident_bytes() - before < 4_000_000
        await transport.aclose()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while open_sockets() > sockets:  # noqa: ASYNC110 (the kernel tells nobody)
            await asyncio.sleep(0)


def test_every_httpx_error_of_a_transport_is_an_upstream_error() -> None:
    async def opened(error: type[httpx.RequestError]) -> None:
        def fail(request: httpx.Request) -> httpx.Response:
            raise error("x")

        with pytest.raises(UpstreamError):
            await upstream_at("http://h", httpx.MockTransport(fail)).open(CALL)

    kinds = [
        kind
        for kind in vars(httpx).values()
        if isinstance(kind, type) and issubclass(kind, httpx.RequestError)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        asyncio.run(opened(kind))
