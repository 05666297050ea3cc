"""A gateway whose state store goes away: killed, hung, out of reach, full or slow."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from gateway import embedded
from gateway.config import Settings
from gateway.spool import FOLDER
from tests.metered import Metered, metered_gateway
from tests.scripted_upstream import Upstream, Visit
from tests.slow_proxy import SlowProxy

IN_TOKENS, OUT_TOKENS = 7, 20  # of every answer
_USAGE = {"prompt_tokens": IN_TOKENS, "completion_tokens": OUT_TOKENS}
ANSWER = {
    "choices": [{"index": 0, "message": {"content": "Fig"}, "finish_reason": "stop"}],
    "usage": _USAGE,
}
"""A chat's."""
_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
_MODELS = (
    {"id": "m", "price": {"input_usd_per_million": 1, "output_usd_per_million": 2}},
    {"id": "picture", "task": "image"},
    {"id": "voice", "task": "speech"},
    {"id": "ear", "task": "transcription"},
)


@dataclass(frozen=True, slots=True)
class Site:
    """A gateway that reaches its state store through `network`; its writer does so directly."""

    metered: Metered
    network: SlowProxy
    upstream: Upstream

    @property
    def spooled(self) -> list[Path]:
        """The files of settlements that wait for the store."""
        return list((self.metered.data_dir / FOLDER).glob("*"))

    async def settled(self, count: int) -> list[dict[str, Any]]:
        """Return the book's records, of which there have to be `count`, once all agrees."""
        await self.metered.records(count)
        await self.metered.until(self._spooled, lambda files: not files)
        await self.metered.until(self._leases, lambda leases: not leases)
        assert await self.metered.differences() == []
        records = await self.metered.records(count)
        assert len({record["request_id"] for record in records}) == len(records) == count
        return records

    async def _spooled(self) -> list[Path]:
        return self.spooled

    async def _leases(self) -> list[bytes]:
        leases: list[bytes] = await self.metered.state.call("KEYS", "leases:*")
        return leases


@asynccontextmanager
async def open_site(
    upstream: Upstream,
    data_dir: Path,
    *,
    is_direct: bool = False,
    transport: httpx.AsyncBaseTransport | None = None,
    **store: Any,
) -> AsyncIterator[Site]:
    """Run a gateway. `is_direct`: there is no network between it and its store.

    `transport` stands for `upstream`.
    """
    settings = Settings.model_validate(
        {
            "store": store,
            "cache": {"ttl_seconds": 0},  # each answer is made anew, and so counts in full
            "upstreams": [{"name": "u", "dialect": "openai", "base_url": f"{upstream.url}/v1"}],
            "models": [{**model, "targets": [{"upstream": "u"}]} for model in _MODELS],
        }
    )
    async with SlowProxy(_state_socket(data_dir)) as network:
        url = None if is_direct else network.url
        async with metered_gateway(
            settings, data_dir, state_url=url, transport=transport
        ) as metered:
            await _warm_up(metered)
            yield Site(metered, network, upstream)


async def _warm_up(metered: Metered) -> None:
    """Wait until the gateway is connected with its store and has its answers in time."""
    async with metered.client(await metered.new_key()) as client:
        await metered.until(partial(client.get, "/usage"), lambda answer: answer.is_success)


def _state_socket(data_dir: Path) -> Path:
    """Return where the state store of a data directory listens."""
    url, _ = embedded.urls(data_dir)
    return Path(url.removeprefix("unix://"))


async def answer(visit: Visit) -> None:
    """Play a chat's whole answer."""
    data = json.dumps(ANSWER).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    await visit.send(f"{head}\r\n\r\n".encode() + data)


def stream_until(gate: asyncio.Event) -> Callable[[Visit], Awaitable[None]]:
    """Return what plays a stream, all but its first token after `gate` is set."""

    async def play(visit: Visit) -> None:
        await visit.send(_STREAM, _event(choices=[{"index": 0, "delta": {"content": "Fig"}}]))
        await gate.wait()
        end = {"index": 0, "delta": {}, "finish_reason": "stop"}
        await visit.send(_event(choices=[end]), _event(choices=[], usage=_USAGE))
        await visit.send(b"data: [DONE]\n\n")
        visit.close()

    return play


def _event(**fields: Any) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


def chat(*, stream: bool = False) -> dict[str, Any]:
    """Return a request of as many tokens as the upstream makes."""
    body: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Which fruit?"}]}
    body["max_tokens"] = OUT_TOKENS
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return body


async def ask(client: httpx.AsyncClient) -> httpx.Response:
    """Send a chat."""
    return await client.post("/chat/completions", json=chat())


@asynccontextmanager
async def hung(site: Site) -> AsyncIterator[None]:
    """Let the store do nothing, its connections left open."""
    pid = await _store_pid(site)
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def killed(site: Site) -> AsyncIterator[None]:
    """Kill the store. Its successors come to life once they find their folder again."""
    folder = site.metered.data_dir / "state"
    elsewhere = folder.with_name("elsewhere")
    pid = await _store_pid(site)
    folder.rename(elsewhere)
    os.kill(pid, signal.SIGKILL)
    try:
        yield
    finally:
        elsewhere.rename(folder)


@asynccontextmanager
async def refused(site: Site) -> AsyncIterator[None]:
    """Let nobody but the writer connect."""
    await site.network.refuse()
    try:
        yield
    finally:
        await site.network.listen()


@asynccontextmanager
async def full(site: Site) -> AsyncIterator[None]:
    """Let the store refuse to store."""
    await site.metered.state.call("CONFIG", "SET", "maxmemory", 1)
    try:
        yield
    finally:
        await site.metered.state.call("CONFIG", "SET", "maxmemory", 0)


@asynccontextmanager
async def slow(site: Site) -> AsyncIterator[None]:
    """Let all answers come too late."""
    site.network.latency_seconds = 0.4
    try:
        yield
    finally:
        site.network.latency_seconds = 0.0


Outage = Callable[[Site], AbstractAsyncContextManager[None]]
OUTAGES: tuple[Outage, ...] = (hung, killed, refused, full, slow)


async def _store_pid(site: Site) -> int:
    info = await site.metered.state.call("INFO", "server")
    return int(info.partition(b"process_id:")[2].split()[0])
