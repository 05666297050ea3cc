"""What workers say to each other, and how it gets there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from adapters.errors import Interrupted, Misconfigured, ModelLoading
from gateway.cache.bus import Bus
from gateway.cache.flight import Abandoned
from gateway.cache.messages import (
    Beat,
    Failed,
    Gone,
    Join,
    Leave,
    Pay,
    Pieces,
    encode,
    pack_error,
    parse,
    unpack_error,
    worker_of,
)
from gateway.errors import BadRequest
from gateway.store import Store
from tests.gateway.state_server import RealServer
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

MESSAGES = (
    Join("flight:{d}", "w:1", "v:2", 3),
    Leave("v:2"),
    Pieces("v:2", 0, 0, False, b"\x00\xff"),
    Beat("v:2", "w:1"),
    Pay("v:2"),
    Gone("v:2"),
    Failed("v:2", pack_error(Misconfigured("No.", status=403))),
)


class Ear:
    """A bus that is listened to."""

    def __init__(self, bus: Bus, store: Store) -> None:
        self.bus = bus
        self.store = store
        self.heard: asyncio.Queue[Any] = asyncio.Queue()
        self.down = asyncio.Event()
        bus.open(self.heard.put_nowait, on_down=self.down.set)


@asynccontextmanager
async def ear(url: str, worker_id: str, patience_seconds: float = 5) -> AsyncIterator[Ear]:
    store = Store(url, timeout_seconds=patience_seconds, probe_seconds=0.05)
    bus = Bus(store, worker_id=worker_id, patience_seconds=patience_seconds)
    listening = Ear(bus, store)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await bus.wait_until_up()
        yield listening
    await bus.aclose()
    await store.aclose()


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_survive_the_way(message: Any) -> None:
    assert parse(encode(message)) == message


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93", encode(["Join", 1]), encode({"a": 1})])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        parse(data)


@pytest.mark.parametrize(
    "error",
    [
        ModelLoading("Wait.", status=503, retry_after_seconds=2.5),
        Misconfigured("No.", status=403, code="c", param="p"),
        BadRequest("Bad.", status=413, code="c", param="p", type="t"),
    ],
)
def test_errors_arrive_as_what_they_are(error: Any) -> None:
    arrived = unpack_error(pack_error(error))
    assert type(arrived) is type(error)
    before = {k: v for k, v in vars(error).items() if k != "headers"}
    assert {k: v for k, v in vars(arrived).items() if k != "headers"} == before


@pytest.mark.parametrize("error", [ZeroDivisionError("secret"), Abandoned("Shut down.")])
def test_other_errors_arrive_as_an_interruption(error: Exception) -> None:
    arrived = unpack_error(pack_error(error))
    assert type(arrived) is Interrupted
    assert "secret" not in arrived.message


def test_names_begin_with_their_worker() -> None:
    assert worker_of("0123456789abcdef:7") == "0123456789abcdef"


async def test_messages_arrive_in_their_order(server: RealServer) -> None:
    async with ear(server.url, "a") as one, ear(server.url, "b") as other:
        for message in MESSAGES:
            one.bus.send("b", message)
        assert [await other.heard.get() for _ in MESSAGES] == list(MESSAGES)


async def test_a_sender_learns_whether_the_worker_is_there(server: RealServer) -> None:
    async with ear(server.url, "a") as one:
        async with ear(server.url, "b"):
            assert await one.bus.send("b", Gone("b:1")) == 1
        assert await one.bus.send("b", Gone("b:1")) == 0


async def test_foreign_messages_are_ignored_and_counted(server: RealServer) -> None:
    async with ear(server.url, "a") as one:
        await one.store.call("PUBLISH", "flights:a", b"\xc1 hello")
        await one.bus.send("a", Gone("a:1"))
        assert await one.heard.get() == Gone("a:1")
        assert one.bus.ignored == 1


async def test_a_channel_is_subscribed_to_again_after_its_server_was_gone(
    server: RealServer,
) -> None:
    async with ear(server.url, "a") as one:
        server.kill()
        await one.down.wait()
        assert not one.bus.is_up
        server.start()
        await one.bus.wait_until_up()
        async with ear(server.url, "b") as other:
            assert await other.bus.send("a", Gone("a:1")) == 1
        assert await one.heard.get() == Gone("a:1")


async def test_a_server_that_hangs_is_noticed(server: RealServer) -> None:
    async with ear(server.url, "a", patience_seconds=0.2) as one:
        server.hang()
        await one.down.wait()
        server.go_on()
        await one.bus.wait_until_up()


async def test_a_channel_without_messages_stays_up(server: RealServer) -> None:
    async with ear(server.url, "a", patience_seconds=0.2) as one:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(one.down.wait(), timeout=0.7)  # more than three patiences
