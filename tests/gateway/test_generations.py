"""Generations of workers, which are a few lines here instead of the gateway's."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.assignment import Assignment
from gateway.config import Logs
from gateway.generations import Generations, Site
from gateway.notifier import Notifier
from gateway.source import Source
from gateway.supervisor import Supervisor
from tests.acceptance.lifecycle.managers import ServiceManager
from tests.served import children, is_running, wait_until

pytestmark = pytest.mark.anyio

RELOADS = 20
WORKER = """
import json, os, signal, sys

told = json.loads(os.environ.pop("DRAGOMAN_ASSIGNMENT"))
if "hangs" in open(told["config"]).read() and sys.argv[1] == "2":
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pause()
os.write(told["ready_fd"], bytes([told["worker"] - 1]))
signal.pause()
"""


@dataclass
class Gateway:
    """What a test does to generations, and hears of them."""

    generations: Generations
    config: Path
    wish: asyncio.Event
    manager: ServiceManager

    def write(self, *, workers: int = 1, more: str = "") -> None:
        """Write the configuration. With `hangs` in it, the second of the workers does so."""
        self.config.write_text(f"[server]\nworkers = {workers}\n{more}")

    async def reload(self) -> None:
        """Reload, and return when that is over."""
        self.wish.set()
        assert [(await self.manager.hears())[0] for _ in range(2)] == ["RELOADING=1", "READY=1"]


@asynccontextmanager
async def running(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, workers: int = 1
) -> AsyncIterator[Gateway]:
    """Yield generations of which the first one serves."""
    (folder / "gateway").mkdir()
    (folder / "gateway" / "__init__.py").touch()
    (folder / "gateway" / "worker.py").write_text(WORKER)
    monkeypatch.chdir(folder)  # where `python -m` looks first
    config, supervisor = folder / "dragoman.toml", Supervisor()
    with ServiceManager(str(folder / "notify")) as manager, socket.socket() as listener:
        assignment = Assignment(
            fd=listener.fileno(),
            start_fd=listener.fileno(),
            data_dir=str(folder),
            overrides={},
            local_url="",
            state_url="",
            cache_url="",
        )
        source = Source(config=config, overrides={})
        site = Site.below(folder, source=source, assignment=assignment)
        site.clear()
        notifier = Notifier(manager.env["NOTIFY_SOCKET"])
        generations = Generations(supervisor, site, notifier)
        gateway = Gateway(generations, config, asyncio.Event(), manager)
        gateway.write(workers=workers)
        try:
            first = await generations.start(source.read())
            await first.roll.complete()
            generations.follow(first, gateway.wish)
            yield gateway
        finally:
            generations.freeze()
            await supervisor.stop()
            await generations.aclose()


def pids() -> set[int]:
    lines = children(os.getpid())
    return {pid for pid, line in lines.items() if "gateway.worker" in line}


def kept(folder: Path) -> tuple[int, list[str]]:
    """Return how many descriptors are open, and the copies of the configuration."""
    copies = (path.name for path in (folder / "generations").iterdir())
    return len(list(Path("/proc/self/fd").iterdir())), sorted(copies)


async def test_reloads_leave_no_descriptor_process_or_copy_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch) as gateway:
        before, _ = kept(tmp_path)
        for _ in range(RELOADS):
            await gateway.reload()
        await wait_until(lambda: kept(tmp_path) == (before, [f"{RELOADS + 1}.toml"]))
        assert len(pids()) == 1


async def test_refused_files_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(tmp_path, monkeypatch) as gateway:
        before, workers = kept(tmp_path), pids()
        for text in ("a = " + 1000 * "[", "a = " + 5000 * "9", "[server"):
            gateway.config.write_text(text)
            await gateway.reload()
        assert (kept(tmp_path), pids()) == (before, workers)
        told = [message for message in caplog.messages if "not reloaded" in message]
        assert len(told) == 3
        assert all(f"{gateway.config}: not TOML: " in message for message in told)


async def test_worker_that_hangs_at_its_start_is_not_given_the_time_of_streams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("gateway.generations._GRACE_SECONDS", 0.1)
    async with running(tmp_path, monkeypatch) as gateway:
        before = pids()
        gateway.write(workers=2, more="# hangs")
        monkeypatch.setattr("gateway.generations._START_SECONDS", 1)
        await gateway.reload()
        assert "not all workers serve after 1 seconds" in caplog.text
        await wait_until(lambda: pids() == before)
        assert all(map(is_running, before))


async def test_parent_logs_as_the_new_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Logs] = []
    monkeypatch.setattr("gateway.generations.configure_logging", told.append)
    async with running(tmp_path, monkeypatch) as gateway:
        await gateway.reload()
        assert told == []
        gateway.write(more="[logs]\nlevel = 'error'")
        await gateway.reload()
    assert [logs.level for logs in told] == ["error"]


async def test_nothing_is_reloaded_once_the_end_has_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch) as gateway:
        gateway.generations.freeze()
        await gateway.generations.aclose()
        before = asyncio.all_tasks()
        gateway.generations.follow(None, gateway.wish)  # type: ignore[arg-type]
        assert asyncio.all_tasks() == before
