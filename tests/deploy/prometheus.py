"""Prometheus itself, with the project's rules, over one gateway."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.deploy.folder import DEPLOY, read_yaml
from tests.patience import PATIENCE_SECONDS
from tests.ports import free_port

SCRAPE_SECONDS = 1


@dataclass(frozen=True, slots=True)
class Series:
    """One series of an answer, at one moment."""

    labels: Mapping[str, str]
    value: float


class Prometheus:
    """Asks a server that runs. What it refuses raises AssertionError with its reason."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def query(self, promql: str, *, at: float | None = None) -> list[Series]:
        """Return what `promql` has for an answer at a moment, or now."""
        found = await self._get("query", query=promql, time=at or time.time())
        return [Series(one["metric"], float(one["value"][1])) for one in found["result"]]

    async def rules(self) -> list[dict[str, Any]]:
        """Return all rules, recording ones too, with their `health` and `state`."""
        groups = (await self._get("rules"))["groups"]
        return [rule for group in groups for rule in group["rules"]]

    async def version(self) -> str:
        """Return its own."""
        version: str = (await self._get("status/buildinfo"))["version"]
        return version

    async def has_seen(self, moment: float) -> None:
        """Wait until the gateway was asked later than `moment`."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not await self._is_later(moment):  # noqa: ASYNC110 (nobody tells)
                await asyncio.sleep(0.1)

    async def _is_later(self, moment: float) -> bool:
        # Of the sample: of what is calculated the time would be that of the question.
        scrapes = await self.query("timestamp(dragoman_workers)")
        return bool(scrapes) and scrapes[0].value > moment

    async def _get(self, what: str, **parameters: str | float) -> Any:
        answer = (await self._client.get(f"/api/v1/{what}", params=parameters)).json()
        assert answer["status"] == "success", answer
        return answer["data"]


@asynccontextmanager
async def prometheus(folder: Path, port: int) -> AsyncIterator[Prometheus]:
    """Run one in `folder`, which is empty, over the gateway at `port` of 127.0.0.1."""
    config = folder / "prometheus.json"  # JSON is YAML
    config.write_text(json.dumps(_config(port)), encoding="utf-8")
    url = f"127.0.0.1:{free_port()}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 (it takes a millisecond)
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'series'}",
                f"--web.listen-address={url}",
            ],
            stderr=log,
        )
    try:
        async with httpx.AsyncClient(base_url=f"http://{url}", trust_env=False) as client:
            await _is_ready(client)
            yield Prometheus(client)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)


def _config(port: int) -> dict[str, Any]:
    """Return the one that is deployed, in a hurry and over another target."""
    config: dict[str, Any] = read_yaml("prometheus/prometheus.yaml")
    config["global"] = dict.fromkeys(
        ("scrape_interval", "evaluation_interval", "scrape_timeout"), f"{SCRAPE_SECONDS}s"
    )
    config["rule_files"] = [str(DEPLOY / "prometheus" / one) for one in config["rule_files"]]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{port}"]}]
    return config


async def _is_ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            with suppress(httpx.TransportError):
                if (await client.get("/-/ready")).is_success:
                    return
            await asyncio.sleep(0.05)
