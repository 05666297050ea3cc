"""What `/metrics` tells of gateways that run: of one, and of four workers together."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.metrics import sampling
from gateway.metrics.series import BY_NAME
from tests.acceptance.metering.exchange_kinds import KINDS
from tests.acceptance.test_crashes import Gateway
from tests.gateway.image_route.painting import http, painted
from tests.gateway.metrics.happenings import FALLING, HAPPENINGS
from tests.gateway.metrics.site import Site, site
from tests.gateway.metrics.told import Told
from tests.patience import PATIENCE_SECONDS
from tests.ports import free_port
from tests.scripted_upstream import Upstream, Visit
from tests.served import children

pytestmark = pytest.mark.anyio

WORKERS = 4
CONFIG = """
[server]
workers = {workers}
[cache]
ttl_seconds = 0
[[upstreams]]
name = "openai"
dialect = "openai"
base_url = "{url}"
[[upstreams]]
name = "hf"
dialect = "hf"
base_url = "{url}"
[[models]]
id = "openai/text"
targets = [{{ upstream = "openai" }}]
price = {{ input_usd_per_million = 0.35, output_usd_per_million = 0.7 }}
[[models]]
id = "hf/image"
task = "image"
targets = [{{ upstream = "hf" }}]
price = {{ usd_per_image = 0.02 }}
"""
CONSTANT = {"dragoman_workers", "dragoman_build_info"}
ELSEWHERE = {"dragoman_log_lines_dropped_total"}


async def unwanted(visit: Visit) -> None:
    raise AssertionError(f"nothing may reach the upstream, but {visit.raw!r} did")


async def answer(visit: Visit) -> None:
    if "/chat/" not in visit.path:
        await visit.send(http(painted()))
    else:
        is_stream = visit.body.get("stream")
        await visit.send(KINDS["openai-chat-stream" if is_stream else "openai-chat"].at_once)


@pytest.fixture(scope="module")
async def gateway(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "PERIOD_SECONDS", 0.02)
        async with (
            Upstream(unwanted) as upstream,
            site(tmp_path_factory.mktemp("gateway"), upstream) as made,
        ):
            yield made


class Served(Gateway):
    """`dragoman serve` with several workers. A new connection for each request finds them all."""

    def __init__(self, folder: Path, url: str) -> None:
        super().__init__(folder, 0, free_port())
        self._config.write_text(CONFIG.format(url=url, workers=WORKERS))

    @property
    def workers(self) -> list[int]:
        """Their process ids."""
        return [pid for pid, line in children(self.process.pid).items() if "gateway.worker" in line]

    def client(self) -> httpx.AsyncClient:
        """Return a client that keeps no connection."""
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"authorization": f"Bearer {self.key}"},
            limits=httpx.Limits(max_connections=16, max_keepalive_connections=0),
            trust_env=False,
            timeout=PATIENCE_SECONDS,
            verify=False,  # certificates take long to load
        )

    async def usage(self, count: int) -> dict[str, int]:
        """Return the sums of the ledger, once it has so many records."""
        rows: list[dict[str, Any]] = []
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(rows) < count:
                code, said = await self.run("usage", "--json")
                assert code == 0, said
                rows = json.loads(said)
        names = ("input_tokens", "output_tokens", "images", "nano_usd")
        return {"requests": len(rows)} | {name: sum(row[name] for row in rows) for name in names}


@pytest.fixture(scope="module")
async def served(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    async with Upstream(answer) as upstream:
        made = Served(tmp_path_factory.mktemp("served"), upstream.url)
        await made.start()
        await until(made, lambda told: told.value("dragoman_workers") == WORKERS)
        yield made
        assert await made.end() == 0


async def until(served: Served, is_it: Any) -> Told:
    """Return what is told once it is as it should be. A worker that dies answers nobody."""
    async with served.client() as client, asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with suppress(httpx.TransportError):
                told = Told.of((await client.get("/metrics")).text)
                if is_it(told):
                    return told
            await asyncio.sleep(0.05)


async def ask(served: Served, count: int) -> None:
    """Send so many requests of each kind."""
    kinds = [KINDS[name].request["json"] for name in ("openai-chat", "openai-chat-stream")]
    requests = [("/v1/chat/completions", kind) for kind in kinds]
    requests.append(("/v1/images/generations", {"model": "hf/image", "prompt": "fox", "n": 2}))
    async with served.client() as client:
        answers = await asyncio.gather(
            *(client.post(path, json=body) for path, body in requests * count)
        )
    assert {one.status_code for one in answers} == {200}


def sums(told: Told) -> dict[str, float]:
    """Return what the ledger should have."""
    tokens = "gen_ai_client_token_usage_sum"
    return {
        "requests": told.value("dragoman_requests_total"),
        "input_tokens": told.value(tokens, gen_ai_token_type="input"),
        "output_tokens": told.value(tokens, gen_ai_token_type="output"),
        "images": told.value("dragoman_images_total"),
        "nano_usd": told.value("dragoman_cost_nano_usd_total"),
    }


def sum_of(told: Told, name: str) -> float:
    return told.value(f"{name}_sum" if BY_NAME[name].kind == "histogram" else name)


@pytest.mark.parametrize("name", HAPPENINGS)
async def test_a_metric_moves_when_its_thing_happens(gateway: Site, name: str) -> None:
    gateway.upstream.rest()
    before = await gateway.told()
    sign = -1 if name in FALLING else 1
    async with HAPPENINGS[name](gateway):
        await gateway.until(lambda told: sign * (sum_of(told, name) - sum_of(before, name)) > 0)


async def test_all_metrics_of_the_table_are_told_and_no_others(gateway: Site) -> None:
    told = await gateway.told()
    for name in CONSTANT:
        assert told.value(name) == 1
    assert {*HAPPENINGS, *CONSTANT, *ELSEWHERE} == BY_NAME.keys()
    assert told.families <= BY_NAME.keys()


async def killed(served: Served) -> Told:
    """Kill a worker; return what is told once it has a successor."""
    victim = served.workers[0]
    os.kill(victim, signal.SIGKILL)
    return await until(
        served,
        lambda told: victim not in served.workers and told.value("dragoman_workers") == WORKERS,
    )


@pytest.mark.slow
async def test_sums_over_all_workers_are_the_ledgers_also_after_one_was_killed(
    served: Served,
) -> None:
    for count in (120, 240):
        await ask(served, 120 // 3)
        ledger = await served.usage(count)
        assert (ledger["requests"], ledger["images"]) == (count, count // 3 * 2)
        assert min(ledger.values()) > 0
        assert sums(await until(served, lambda told: True)) == ledger
        assert sums(await killed(served)) == ledger


@pytest.mark.slow
async def test_each_worker_tells_of_itself_and_its_successor_for_it(served: Served) -> None:
    told = await killed(served)
    assert told.labels("dragoman_open_files", "worker") == {"1", "2", "3", "4"}


@pytest.mark.slow
async def test_what_is_told_can_be_read_at_any_time_while_workers_die(served: Served) -> None:
    is_over = asyncio.Event()

    async def load() -> None:
        async with served.client() as client:
            while not is_over.is_set():
                with suppress(httpx.TransportError):
                    await client.post("/v1/chat/completions", **KINDS["openai-chat"].request)

    async with asyncio.TaskGroup() as group, served.client() as client:
        for _ in range(4):
            group.create_task(load())
        requests = read = 0.0
        for round_ in range(40):
            if round_ in (10, 20):
                os.kill(served.workers[0], signal.SIGKILL)
            with suppress(httpx.TransportError):  # of the worker that was killed
                answer = await client.get("/metrics")
                assert answer.status_code == 200
                told = Told.of(answer.text)
                assert told.value("dragoman_requests_total") >= requests
                requests = told.value("dragoman_requests_total")
                read += 1
        is_over.set()
    assert read >= 30
