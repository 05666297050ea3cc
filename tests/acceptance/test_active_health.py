"""A dead server leaves the rotation and returns to it, and no client's request tells."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import pytest

from gateway.config import Settings
from tests.acceptance.recordings import recording
from tests.gateway_fixture import Gateway, running_gateway
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

ANSWER = recording("native/plain.answer").whole()
WELL = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Server:
    """Answers while it is alive. `sacrificed`: requests that came when it was not."""

    def __init__(self) -> None:
        self.is_alive = True
        self.answered = self.sacrificed = self._probed = 0
        self._was_probed = asyncio.Event()

    async def __call__(self, visit: Visit) -> None:
        is_probe = visit.path == "/health"
        if is_probe:
            self._probed += 1
            self._was_probed.set()
        if not self.is_alive:
            self.sacrificed += not is_probe
            visit.reset()
            return
        self.answered += not is_probe
        await visit.send(WELL if is_probe else ANSWER)

    async def probes(self, times: int) -> None:
        """Wait until it was asked for its health so often from now on."""
        last = self._probed + times
        while self._probed < last:
            self._was_probed.clear()
            await self._was_probed.wait()


async def ask(http: httpx.AsyncClient, gateway: Gateway, number: int) -> str:
    """Return which upstream has answered."""
    body = {"model": "m", "prompt": f"Hi {number}"}
    reply = await http.post(f"{gateway.base_url}/completions", json=body, headers=gateway.headers)
    assert reply.status_code == 200
    return reply.headers["x-dragoman-upstream"]


def settings_of(**urls: str) -> Settings:
    health = {"health_path": "/health", "health_interval_seconds": 0.2}
    upstreams = [
        {"name": name, "dialect": "hf", "base_url": f"{url}/deep"} | health
        for name, url in urls.items()
    ]
    model = {"id": "m", "targets": [{"upstream": name} for name in urls]}
    return Settings.model_validate({"upstreams": upstreams, "models": [model]})


async def test_a_dead_server_leaves_and_returns_by_itself(tmp_path: Path) -> None:
    one, two = Server(), Server()
    async with (
        Upstream(one) as first,
        Upstream(two) as second,
        running_gateway(settings_of(a=first.url, b=second.url), tmp_path) as gateway,
        httpx.AsyncClient(timeout=PATIENCE_SECONDS) as http,
    ):
        numbers = iter(range(10**9))
        while {await ask(http, gateway, next(numbers)) for _ in range(20)} != {"a", "b"}:
            pass
        one.is_alive = False
        await one.probes(3)
        assert {await ask(http, gateway, next(numbers)) for _ in range(50)} == {"b"}
        assert one.sacrificed == 0
        one.is_alive = True
        while await ask(http, gateway, next(numbers)) != "a":
            pass
        assert one.sacrificed == 0
