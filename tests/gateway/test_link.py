import asyncio
import random
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from socket import socketpair
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any

import pytest

from gateway.address import Address
from gateway.link import Link, Script, StoreRefused, StoreUnavailable
from tests.gateway.state_server import PROGRAMS, RealServer, program, proxy, scripted
from tests.own_loop import in_own_loop
from tests.patience import PATIENCE_SECONDS, Stopwatch

pytestmark = pytest.mark.anyio

TIMEOUT_SECONDS = 1.0


@pytest.fixture(scope="module", params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


@pytest.fixture(scope="module", params=PROGRAMS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RealServer]:
    started = RealServer(program(request.param), tmp_path_factory.mktemp("server"))
    yield started
    started.kill()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RealServer]:
    """Yield a server for one test, which may do to it what it likes."""
    started = RealServer(program("valkey"), tmp_path)
    yield started
    started.kill()


@pytest.fixture
async def link(server: RealServer) -> AsyncIterator[Link]:
    opened = Link(Address.parse(server.url))
    await opened.send(("FLUSHALL",))
    yield opened
    await opened.aclose()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Return a file with a key and a certificate of `localhost`."""
    file = tmp_path / "certificate"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1"
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    try:
        made = subprocess.check_output(
            (*command.split(), *names, "-keyout", "-"), stderr=subprocess.DEVNULL
        )
    except FileNotFoundError:
        pytest.skip("there is no openssl to make a certificate with")
    file.write_bytes(made)
    return file


def sockets() -> set[str]:
    """Return the sockets that this process has open."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that listed them
            found.add(str(descriptor.readlink()))
    return {name for name in found if name.startswith("socket:")}


def keep_busy(seconds: float) -> None:
    """Keep the event loop from running, as a long computation does."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


class Watched(asyncio.Protocol):
    """Stands between a protocol and its transport: keeps what is written, knows of the end."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self.protocol = protocol
        self.writes: list[bytes] = []
        self.is_lost = asyncio.Event()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.protocol.connection_made(self)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        self.protocol.data_received(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.protocol.connection_lost(error)
        self.is_lost.set()

    def write(self, data: bytes) -> None:
        self.writes.append(data)
        self.transport.write(data)

    def abort(self) -> None:
        self.transport.abort()


class WatchedAddress(Address):
    """Keeps its last connection."""

    __slots__ = ("connection",)
    connection: Watched

    async def connect(self, protocol: asyncio.Protocol) -> None:
        object.__setattr__(self, "connection", Watched(protocol))
        await Address.connect(self, self.connection)


async def test_replies_are_bytes_ints_none_and_lists(link: Link) -> None:
    assert await link.send((b"SET", "key", "é")) == b"OK"
    assert await link.send(("GET", b"key")) == "é".encode()
    assert await link.send(("GET", "nothing")) is None
    assert await link.send(("INCRBY", "number", -5)) == -5
    assert await link.send(("MGET", "key", "nothing")) == ["é".encode(), None]


async def test_each_of_a_thousand_calls_gets_its_own_reply_whoever_else_cancels(link: Link) -> None:
    chance, left = random.Random(1), set[int]()

    async def ask(number: int) -> int | None:
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        asking = asyncio.ensure_future(link.send(("ECHO", number)))
        if chance.random() < 0.3:
            for _ in range(chance.randrange(4)):
                await asyncio.sleep(0)
            asking.cancel()
            left.add(number)
        try:
            return int(await asking)
        except asyncio.CancelledError:
            return None

    answers = await asyncio.gather(*map(ask, range(1000)))

    answered = {number for number, answer in enumerate(answers) if answer is not None}
    assert len(answered) < 1000
    assert answered | left == set(range(1000))
    assert all(answers[number] == number for number in answered)
    assert await link.send(("ECHO", "last")) == b"last"


async def test_commands_of_one_turn_of_the_loop_leave_in_one_write(server: RealServer) -> None:
    address = WatchedAddress(path=str(server.socket))
    link = Link(address)
    await asyncio.gather(*(link.send(("ECHO", number)) for number in range(100)))
    await asyncio.gather(*(link.send(("ECHO", number)) for number in range(100)))

    assert [data.count(b"ECHO") for data in address.connection.writes] == [0, 100, 100]
    await link.aclose()


async def test_nothing_is_asked_before_user_database_and_name_are_accepted(
    server: RealServer, link: Link
) -> None:
    await link.send(("ACL", "SETUSER", "alice", "on", ">s3 cret", "~*", "+@all"))
    other = Link(Address.parse(f"unix://alice:s3%20cret@{server.socket}?db=3"))

    client = (await other.send(("CLIENT", "INFO"))).decode().split()

    assert {"name=dragoman", "user=alice", "db=3"} <= set(client)
    await other.aclose()


async def test_user_who_may_not_set_a_name_is_served_all_the_same(
    server: RealServer, link: Link
) -> None:
    await link.send(("ACL", "SETUSER", "bob", "on", ">secret", "~*", "+@all", "-client"))
    other = Link(Address.parse(f"unix://bob:secret@{server.socket}"))

    assert await other.send(("ECHO", "hello")) == b"hello"
    await other.aclose()


async def test_password_of_the_default_user(server: RealServer, link: Link) -> None:
    await link.send(("CONFIG", "SET", "requirepass", "secret"))
    outcomes: list[Any] = []
    for url in (f"unix://:secret@{server.socket}", f"unix://:wr0ng@{server.socket}", server.url):
        other = Link(Address.parse(url))
        outcomes += await asyncio.gather(other.send(("ECHO", "hello")), return_exceptions=True)
        await other.aclose()
    await link.send(("CONFIG", "SET", "requirepass", ""))

    right, wrong, none = outcomes
    assert right == b"hello"
    assert isinstance(wrong, StoreUnavailable) and "WRONGPASS" in str(wrong)
    assert "wr0ng" not in str(wrong)
    assert isinstance(none, StoreUnavailable) and "NOAUTH" in str(none)


async def test_database_that_is_not_there_is_never_replaced_by_another(server: RealServer) -> None:
    link = Link(Address.parse(f"{server.url}?db=99"))

    with pytest.raises(StoreUnavailable, match="DB index is out of range"):
        await link.send(("SET", "key", "value"))

    await link.aclose()


async def test_tcp_server_is_reached_by_its_url(server: RealServer) -> None:
    async with proxy(server.socket) as port:
        link = Link(Address.parse(f"redis://127.0.0.1:{port}/2"))
        assert b" db=2 " in await link.send(("CLIENT", "INFO"))
        await link.aclose()


async def test_tls_server_is_trusted_by_its_certificate_only(
    server: RealServer, certificate: Path
) -> None:
    tls = SSLContext(PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)

    async with proxy(server.socket, tls=tls) as port:
        trusting = Link(Address.parse(f"rediss://localhost:{port}?ssl_ca_certs={certificate}"))
        wary = Link(Address.parse(f"rediss://localhost:{port}"))
        assert await trusting.send(("ECHO", "hello")) == b"hello"
        with pytest.raises(StoreUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await wary.send(("ECHO", "hello"))
        await trusting.aclose()
        await wary.aclose()


@pytest.mark.parametrize("url", ["http://host", "redis://host/?nonsense=1", "redis://host/?db=x"])
def test_url_of_no_store_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        Address.parse(url)


def test_password_is_not_in_the_text_of_an_address() -> None:
    assert "secret" not in repr(Address.parse("redis://user:secret@host"))


async def test_error_reply_is_told_by_its_code(link: Link) -> None:
    await link.send(("SET", "key", "text"))

    with pytest.raises(StoreRefused) as wrong_type:
        await link.send(("LPUSH", "key", 1))
    with pytest.raises(StoreRefused) as unknown:
        await link.send(("NONSENSE",))

    assert [wrong_type.value.code, unknown.value.code] == ["WRONGTYPE", "ERR"]


async def test_error_among_other_replies_concerns_its_own_command_alone(link: Link) -> None:
    answers = await asyncio.gather(
        link.send(("ECHO", 1)),
        link.send(("NONSENSE",)),
        link.send(("ECHO", 2)),
        return_exceptions=True,
    )

    assert [answers[0], type(answers[1]), answers[2]] == [b"1", StoreRefused, b"2"]


async def test_error_of_a_call_that_was_cancelled_concerns_nobody(link: Link) -> None:
    number = await link.send(("CLIENT", "ID"))
    link.send(("NONSENSE",)).cancel()

    assert await link.send(("CLIENT", "ID")) == number


@pytest.mark.parametrize("argument", [None, True, [1], "\ud800"])
async def test_what_is_no_argument_is_refused_and_disturbs_nobody(
    link: Link, argument: Any
) -> None:
    before = link.send(("ECHO", "before"))
    with pytest.raises((TypeError, UnicodeEncodeError)):
        link.send(("SET", "key", argument))

    assert [await before, await link.send(("ECHO", "after"))] == [b"before", b"after"]


async def test_script_is_sent_where_the_server_does_not_know_it(link: Link) -> None:
    script = Script("return {KEYS[1], ARGV[1]}")
    command = ("EVALSHA", script.sha, 1, "key", "é")

    await link.send(("SCRIPT", "FLUSH"))
    first = await asyncio.gather(*(link.send(command, script) for _ in range(50)))
    known = await link.send(("SCRIPT", "EXISTS", script.sha))

    assert first == [[b"key", "é".encode()]] * 50
    assert known == [1]


async def test_unknown_script_runs_though_its_caller_has_left(link: Link) -> None:
    script = Script("return redis.call('INCR', KEYS[1])")
    await link.send(("SCRIPT", "FLUSH"))

    link.send(("EVALSHA", script.sha, 1, "count"), script).cancel()
    await link.send(("ECHO", "its error was answered before this"))

    assert await link.send(("GET", "count")) == b"1"


async def test_command_that_is_no_script_keeps_its_noscript_error(link: Link) -> None:
    with pytest.raises(StoreRefused) as error:
        await link.send(("EVALSHA", "0" * 40, 0))

    assert error.value.code == "NOSCRIPT"


async def test_more_pending_commands_than_allowed_fail_at_once(server: RealServer) -> None:
    link = Link(Address.parse(server.url), pending_limit=10)
    allowed = [link.send(("ECHO", number)) for number in range(10)]

    surplus = link.send(("ECHO", 10))

    assert isinstance(surplus.exception(), StoreUnavailable)
    assert await asyncio.gather(*allowed) == [b"%d" % number for number in range(10)]
    assert await link.send(("ECHO", 11)) == b"11"
    await link.aclose()


async def test_reply_later_than_allowed_fails_all_that_waits(own: RealServer) -> None:
    failures: list[tuple[str, int]] = []
    async with proxy(own.socket, delay_seconds=0.3) as port:
        link = Link(
            Address.parse(f"redis://127.0.0.1:{port}"),
            timeout_seconds=TIMEOUT_SECONDS,
            on_failure=lambda reason, count: failures.append((reason, count)),
        )
        assert await link.send(("ECHO", "in time")) == b"in time"
        start = time.monotonic()
        async with Stopwatch() as watch:
            late = [
                link.send(("DEBUG", "SLEEP", PATIENCE_SECONDS)),
                link.send(("ECHO", "behind it")),
            ]
            answers = await asyncio.gather(*late, return_exceptions=True)
        seconds = time.monotonic() - start
        await link.aclose()

    assert [type(answer) for answer in answers] == [StoreUnavailable] * 2
    assert seconds >= TIMEOUT_SECONDS
    assert watch.seconds < 2 * TIMEOUT_SECONDS
    assert failures == [("the store did not answer within 1 s", 2)]


async def test_call_that_comes_later_does_not_prolong_the_wait_of_the_first(
    tmp_path: Path,
) -> None:
    async with scripted(tmp_path, lambda command: b"+OK\r\n" * (command[0] == b"CLIENT")) as url:
        link = Link(Address.parse(url), timeout_seconds=TIMEOUT_SECONDS)
        start = time.monotonic()
        async with Stopwatch() as watch:
            calls = [link.send(("ECHO", "first"))]
            while not calls[0].done():
                calls.append(link.send(("ECHO", "later")))
                await asyncio.wait(calls[:1], timeout=0.02)
        seconds = time.monotonic() - start
        await link.aclose()

    assert len(calls) > 3
    assert {type(call.exception()) for call in calls} == {StoreUnavailable}
    assert seconds >= TIMEOUT_SECONDS
    assert watch.seconds < 2 * TIMEOUT_SECONDS


async def test_reply_to_one_command_does_not_excuse_the_next(tmp_path: Path) -> None:
    says = {b"first": b"", b"second": b"+first\r\n"}  # one behind
    async with scripted(tmp_path, lambda command: says.get(command[1], b"+OK\r\n")) as url:
        link = Link(Address.parse(url), timeout_seconds=TIMEOUT_SECONDS)
        first = link.send(("ECHO", "first"))
        await asyncio.wait([first], timeout=0.01)  # it leaves in a write of its own
        second = link.send(("ECHO", "second"))
        assert await first == b"first"
        with pytest.raises(StoreUnavailable):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await second
        await link.aclose()


async def test_reply_that_came_while_the_loop_was_busy_is_not_late(own: RealServer) -> None:
    link = Link(Address.parse(own.url), timeout_seconds=TIMEOUT_SECONDS)
    await link.send(("ECHO", "connected"))
    loop, (here, there) = asyncio.get_running_loop(), socketpair()

    def read() -> None:  # uvloop runs its timers after such a callback, before it reads again
        here.recv(1)
        keep_busy(TIMEOUT_SECONDS + 0.1)

    with here, there:
        loop.add_reader(here, read)
        asking = link.send(("DEBUG", "SLEEP", "0.05"))
        await asyncio.sleep(0)  # now it is written
        there.send(b"!")
        assert await asking == b"OK"
        loop.remove_reader(here)
    await link.aclose()


async def test_command_that_a_busy_loop_wrote_late_has_its_full_time(own: RealServer) -> None:
    link = Link(Address.parse(own.url), timeout_seconds=TIMEOUT_SECONDS)
    await link.send(("ECHO", "connected"))
    asking = link.send(("DEBUG", "SLEEP", "0.05"))

    keep_busy(TIMEOUT_SECONDS + 0.1)

    assert await asking == b"OK"
    await link.aclose()


async def test_late_reply_never_answers_a_later_command(own: RealServer) -> None:
    link = Link(Address.parse(own.url), timeout_seconds=TIMEOUT_SECONDS)
    await link.send(("ECHO", "connected"))

    own.hang()
    late = await asyncio.gather(
        *(link.send(("ECHO", f"late {number}")) for number in range(3)), return_exceptions=True
    )
    again = [link.send(("ECHO", f"new {number}")) for number in range(3)]
    own.go_on()

    assert [type(answer) for answer in late] == [StoreUnavailable] * 3
    assert await asyncio.gather(*again) == [b"new 0", b"new 1", b"new 2"]
    await link.aclose()


async def test_killed_server_fails_what_waits_at_once_and_its_successor_is_found(
    own: RealServer,
) -> None:
    failures: list[int] = []
    link = Link(
        Address.parse(own.url),
        timeout_seconds=PATIENCE_SECONDS,
        on_failure=lambda reason, count: failures.append(count),
    )
    await link.send(("ECHO", "connected"))

    own.hang()
    waiting = [link.send(("ECHO", number)) for number in range(5)]
    await asyncio.sleep(0)
    waiting.pop().cancel()
    own.kill()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    with pytest.raises(StoreUnavailable):
        await link.send(("ECHO", "nobody is there"))
    own.start()

    assert [type(answer) for answer in answers] == [StoreUnavailable] * 4
    assert failures == [1, 1]
    assert await link.send(("ECHO", "back")) == b"back"
    await link.aclose()


async def test_connection_that_ended_while_idle_is_replaced_and_no_failure(
    server: RealServer, link: Link
) -> None:
    failures: list[str] = []
    address = WatchedAddress(path=str(server.socket))
    other = Link(address, on_failure=lambda reason, count: failures.append(reason))
    number = await other.send(("CLIENT", "ID"))
    await link.send(("CLIENT", "KILL", "ID", number))
    await address.connection.is_lost.wait()

    assert await other.send(("CLIENT", "ID")) > number
    assert failures == []
    await other.aclose()


async def test_full_server_is_unavailable(server: RealServer, link: Link) -> None:
    [_, allowed] = await link.send(("CONFIG", "GET", "maxclients"))
    await link.send(("CONFIG", "SET", "maxclients", 1))
    other = Link(Address.parse(server.url))

    with pytest.raises(StoreUnavailable):
        await other.send(("ECHO", "hello"))

    await link.send(("CONFIG", "SET", "maxclients", allowed))
    assert await other.send(("ECHO", "hello")) == b"hello"
    await other.aclose()


@pytest.mark.parametrize(
    "url", ["unix:///nowhere", "redis://127.0.0.1:1", "redis://nohost.invalid"]
)
async def test_server_that_is_not_there_is_unavailable(url: str) -> None:
    link = Link(Address.parse(url))

    with pytest.raises(StoreUnavailable):
        await link.send(("ECHO", "hello"))

    await link.aclose()


@pytest.mark.parametrize("code", ["LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN"])
async def test_server_that_says_it_does_not_serve_is_unavailable(tmp_path: Path, code: str) -> None:
    failures: list[tuple[str, int]] = []

    def answer(command: list[bytes]) -> bytes:
        return b"+OK\r\n" if command[0] == b"CLIENT" else f"-{code} not now\r\n".encode()

    async with scripted(tmp_path, answer) as url:
        link = Link(
            Address.parse(url), on_failure=lambda reason, count: failures.append((reason, count))
        )
        with pytest.raises(StoreUnavailable, match=code):
            await link.send(("ECHO", "hello"))
        await link.aclose()

    assert failures == [(f"{code} not now", 1)]


async def test_server_that_loads_is_not_asked(tmp_path: Path) -> None:
    failures: list[int] = []
    asked: list[bytes] = []

    def answer(command: list[bytes]) -> bytes:
        asked.append(command[0])
        return b"-LOADING the data\r\n"

    async with scripted(tmp_path, answer) as url:
        link = Link(
            Address.parse(f"{url}?db=1"), on_failure=lambda reason, count: failures.append(count)
        )
        with pytest.raises(StoreUnavailable, match="LOADING"):
            await link.send(("SET", "key", "value"))
        await link.aclose()

    assert asked == [b"SELECT", b"CLIENT"]
    assert failures == [1]


async def test_server_of_another_protocol_is_unavailable(tmp_path: Path) -> None:
    async with scripted(tmp_path, lambda _: b"HTTP/1.1 400 Bad Request\r\n\r\n") as url:
        link = Link(Address.parse(url))
        with pytest.raises(StoreUnavailable, match="does not speak RESP"):
            await link.send(("ECHO", "hello"))
        await link.aclose()


async def test_reply_to_nothing_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    def answer(command: list[bytes]) -> bytes:
        return b"+OK\r\n" if command[0] == b"CLIENT" else b"+%s\r\n" % command[1] * 2

    async with scripted(tmp_path, answer) as url:
        link = Link(Address.parse(url))
        answers = [await link.send(("ECHO", number)) for number in range(3)]
        await link.aclose()

    assert answers == [b"0", b"1", b"2"]


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 10])
@in_own_loop
async def test_close_while_connecting_leaves_neither_task_nor_socket(
    server: RealServer, turns: int
) -> None:
    before = sockets(), asyncio.all_tasks()
    link = Link(Address.parse(server.url))
    waiting = link.send(("DEBUG", "SLEEP", "0.05"))
    for _ in range(turns):
        await asyncio.sleep(0)

    await link.aclose()

    assert (sockets(), asyncio.all_tasks()) == before
    assert isinstance(waiting.exception(), StoreUnavailable)


@in_own_loop
async def test_closed_link_has_no_socket_and_makes_none(server: RealServer) -> None:
    before = sockets()
    link = Link(Address.parse(server.url))
    await link.send(("ECHO", "connected"))

    await link.aclose()

    assert sockets() == before
    assert isinstance(link.send(("ECHO", 1)).exception(), StoreUnavailable)
    assert sockets() == before


async def test_lost_connections_leave_no_socket(tmp_path: Path) -> None:
    async with scripted(tmp_path, lambda command: None) as url:
        link = Link(Address.parse(url))
        before = sockets()
        for _ in range(5):
            with pytest.raises(StoreUnavailable):
                await link.send(("ECHO", "hello"))
        await link.aclose()
        assert sockets() == before
