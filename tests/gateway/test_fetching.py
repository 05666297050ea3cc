"""Fetching images: what must not be reached has a server listening, and is not reached."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from ipaddress import ip_address
from ssl import create_default_context

import pytest

from gateway.fetching import FetchFailed, ImageFetcher, is_public, resolve_host
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

PNG = b"\x89PNG\r\n\x1a\n" + bytes(100)
PUBLIC = ip_address("93.184.215.14")
LOOPBACK = ip_address("127.0.0.1")
Play = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Listens on 127.0.0.1 and keeps the head of every request."""

    def __init__(self, *answers: bytes | Play) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self.left = asyncio.Event()
        self._answers = list(answers)
        self._tasks: set[asyncio.Task[None]] = set()

    async def meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            answer = self._answers.pop(0)
            if isinstance(answer, bytes):
                writer.write(answer)
                await writer.drain()
            else:
                await answer(writer)
            await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.left.set()
            writer.close()


@asynccontextmanager
async def listening(*answers: bytes | Play, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    made = Server(*answers)
    async with await asyncio.start_server(made.meet, host, 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


def ok(body: bytes, *headers: str) -> bytes:
    lines = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body


def redirect(location: str) -> bytes:
    return f"HTTP/1.1 302 Found\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n".encode()


class Names:
    """A resolver with a script: each host's answers one after the other, the last for good."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.asked: list[str] = []
        self._answers = answers

    async def __call__(self, host: str, port: int) -> list:
        self.asked.append(host)
        answers = self._answers[host.partition(".")[0]]
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [ip_address(address) for address in found]


def fetcher(server: Server, *, allowed: Iterable = (), **options) -> ImageFetcher:
    """Return a fetcher for which only `allowed` and public addresses are allowed."""
    return ImageFetcher(
        ports=frozenset((80, 443, server.port)),
        is_allowed=lambda address: address in allowed or is_public(address),
        **options,
    )


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "0x7f000001",
        "0x7f.1",
        "2130706433",
        "017700000001",
        "127.0.0.1.",
        "localhost",
        "localhost.",
        "LOCALHOST",
        "0.0.0.0",
        "0",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::1]",
        "[::]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
    ],
)
async def test_loopback_is_not_reached_however_it_is_spelled(host):
    async with listening(ok(PNG)) as server:
        with pytest.raises(FetchFailed, match="public address"):
            await fetcher(server).fetch(f"http://{host}:{server.port}/")
    assert server.connections == 0


async def test_the_guard_alone_keeps_loopback_from_being_reached():
    async with listening(ok(PNG)) as server:
        image = await fetcher(server, allowed=[LOOPBACK]).fetch(f"http://127.1:{server.port}/")
    assert image == PNG


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0"),
        *("192.0.0.8", "192.0.2.1", "192.88.99.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
        *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "168.63.129.16"),
        *("::", "::1", "::ffff:8.8.8.8", "::8.8.8.8", "64:ff9b::808:808", "64:ff9b:1::1", "100::1"),
        *("2001::1", "2001:2::1", "2001:10::1", "2001:db8::1", "2002:808:808::1", "3fff::1"),
        *("fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%2", "fec0::1", "ff02::1", "ff0e::1"),
    ],
)
def test_special_addresses_are_not_public(address):
    assert not is_public(ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.215.14", "2606:4700:4700::1111"])
def test_addresses_on_the_internet_are_public(address):
    assert is_public(ip_address(address))


async def test_one_private_address_among_public_ones_refuses_the_host():
    names = Names(mixed=[[str(PUBLIC), "127.0.0.1"]])
    async with listening(ok(PNG)) as server:
        with pytest.raises(FetchFailed, match="public"):
            await fetcher(server, resolve=names).fetch(f"http://mixed.example:{server.port}/")
    assert server.connections == 0


async def test_a_host_that_changes_its_address_after_the_check_is_not_asked_again():
    names = Names(rebinding=[["127.0.0.2"], ["127.0.0.1"]])
    async with listening(ok(PNG), host="127.0.0.2") as checked:
        guarded = fetcher(checked, allowed=[ip_address("127.0.0.2")], resolve=names)
        assert await guarded.fetch(f"http://rebinding.example:{checked.port}/") == PNG
        assert checked.connections == 1
        with pytest.raises(FetchFailed, match="public"):
            await guarded.fetch(f"http://rebinding.example:{checked.port}/")
    assert names.asked == ["rebinding.example"] * 2


async def test_the_request_names_the_host_and_nothing_of_the_gateway():
    names = Names(pictures=[["127.0.0.1"]])
    async with listening(ok(PNG)) as server:
        await fetcher(server, allowed=[LOOPBACK], resolve=names).fetch(
            f"http://pictures.example:{server.port}/a%20b.png?size=1#top"
        )
    head = server.requests[0].decode().lower()
    assert head.startswith(
        f"get /a%20b.png?size=1 http/1.1\r\nhost: pictures.example:{server.port}"
    )
    assert "authorization" not in head
    assert "cookie" not in head


async def test_tls_names_the_host_though_the_connection_is_pinned():
    hello = asyncio.get_running_loop().create_future()

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello.set_result(await reader.read(4096))
        writer.close()

    names = Names(pictures=[["127.0.0.1"]])
    async with await asyncio.start_server(meet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        guarded = ImageFetcher(
            ssl_context=create_default_context(),
            ports=frozenset((port,)),
            is_allowed=lambda address: True,
            resolve=names,
        )
        with pytest.raises(FetchFailed, match="could not be fetched"):
            await guarded.fetch(f"https://pictures.example:{port}/")
    assert b"pictures.example" in hello.result()


@pytest.mark.parametrize("inside", ["http://127.0.0.1", "//127.0.0.2", "http://[::ffff:7f00:1]"])
async def test_a_redirect_to_the_inside_is_not_followed(inside):
    names = Names(public=[["127.0.0.3"]])

    async def resolve(host, port):
        known = host.startswith("public")
        return await (names(host, port) if known else resolve_host(host, port))

    async with listening(ok(PNG)) as secret:
        async with listening(redirect(f"{inside}:{secret.port}/"), host="127.0.0.3") as server:
            guarded = ImageFetcher(
                ports=frozenset((server.port, secret.port)),
                is_allowed=lambda address: address == ip_address("127.0.0.3"),
                resolve=resolve,
            )
            with pytest.raises(FetchFailed, match="public"):
                await guarded.fetch(f"http://public.example:{server.port}/")
        assert server.connections == 1
    assert secret.connections == 0


async def test_a_redirect_within_the_rules_is_followed():
    async with listening(redirect("/moved"), ok(PNG)) as server:
        guarded = fetcher(server, allowed=[LOOPBACK])
        assert await guarded.fetch(f"http://127.0.0.1:{server.port}/") == PNG
    assert server.requests[1].startswith(b"GET /moved ")


async def test_the_fourth_redirect_is_not_followed():
    async with listening(*[redirect("/again")] * 4, ok(PNG)) as server:
        with pytest.raises(FetchFailed, match="3 redirects"):
            await fetcher(server, allowed=[LOOPBACK]).fetch(f"http://127.0.0.1:{server.port}/")
    assert server.connections == 4


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("file:///etc/passwd", "https://"),
        ("gopher://127.0.0.1/", "https://"),
        ("/relative.png", "https://"),
        ("", "https://"),
        ("http://user:secret@pictures.example/", "user name"),
        ("http://user@pictures.example/", "user name"),
        ("http://pictures.example:22/", "port 22"),
        ("https://pictures.example:6379/", "port 6379"),
        ("http://[::1", "malformed"),
        ("http://①②⑦.⓪.⓪.①/", "malformed"),
        ("http://pictures.example:port/", "malformed"),
        ("http://a\r\nb/", "malformed"),
    ],
)
async def test_urls_that_no_picture_needs_are_refused_before_dns(url, why):
    names = Names(pictures=[["127.0.0.1"]])
    with pytest.raises(FetchFailed, match=why):
        await ImageFetcher(resolve=names, is_allowed=lambda address: True).fetch(url)
    assert names.asked == []


async def test_a_missing_host_is_told_like_one_inside():
    messages = []
    for found in ([], ["10.0.0.1"]):
        with pytest.raises(FetchFailed) as failed:
            await ImageFetcher(resolve=Names(host=[found])).fetch("http://host.example/")
        messages.append(failed.value.message)
    assert messages[0] == messages[1]


async def test_hosts_that_do_not_exist_have_no_addresses(monkeypatch):
    async def unknown(*args, **options):
        raise socket.gaierror("unknown")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", unknown)
    assert await resolve_host("nowhere.invalid", 80) == ()


async def test_the_next_address_is_tried_when_one_refuses():
    names = Names(two=[["127.0.0.9", "127.0.0.1"]])
    async with listening(ok(PNG)) as server:
        guarded = ImageFetcher(
            ports=frozenset((server.port,)), resolve=names, is_allowed=lambda address: True
        )
        assert await guarded.fetch(f"http://two.example:{server.port}/") == PNG


async def test_a_long_image_is_refused_by_its_length():
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n"
    async with listening(head) as server:
        with pytest.raises(FetchFailed, match="1000 bytes"):
            await fetcher(server, allowed=[LOOPBACK], limit_bytes=1000).fetch(
                f"http://127.0.0.1:{server.port}/"
            )


async def test_an_endless_image_is_cut_off():
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + PNG)
        while True:
            writer.write(bytes(65_536))
            await writer.drain()

    async with listening(endless) as server:
        with pytest.raises(FetchFailed, match="100000 bytes"):
            await fetcher(server, allowed=[LOOPBACK], limit_bytes=100_000).fetch(
                f"http://127.0.0.1:{server.port}/"
            )
        async with asyncio.timeout(PATIENCE_SECONDS):
            await server.left.wait()


async def test_what_is_no_image_is_cut_off_at_its_first_bytes():
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: image/png\r\n\r\n<!doctype html><html>")
        await writer.drain()

    async with listening(endless) as server:
        with pytest.raises(FetchFailed, match="no image"):
            await fetcher(server, allowed=[LOOPBACK]).fetch(f"http://127.0.0.1:{server.port}/")


async def test_a_server_that_says_nothing_is_given_up():
    async def silent(writer: asyncio.StreamWriter) -> None:
        pass

    async with listening(silent) as server:
        with pytest.raises(FetchFailed, match="in time"):
            await fetcher(server, allowed=[LOOPBACK], total_seconds=0.1).fetch(
                f"http://127.0.0.1:{server.port}/"
            )
        async with asyncio.timeout(PATIENCE_SECONDS):
            await server.left.wait()


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "answered 404"),
        (ok(PNG, "content-encoding: gzip"), "compressed"),
        (ok(b""), "no image"),
        (ok(b"\x89PNG"), "no image"),
        (redirect("file:///etc/passwd"), "https://"),
        (redirect("http://user@127.0.0.1/"), "user name"),
        (redirect("http://[::1"), "malformed"),
        (b"no HTTP\r\n\r\n", "could not be fetched"),
    ],
)
async def test_other_answers_are_refused(answer, why):
    async with listening(answer) as server:
        with pytest.raises(FetchFailed, match=why):
            await fetcher(server, allowed=[LOOPBACK]).fetch(f"http://127.0.0.1:{server.port}/")
