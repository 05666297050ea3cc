"""`dragoman serve` as a process."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import signal
import sys
import termios
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from tests.patience import PATIENCE_SECONDS

POLL_SECONDS = 0.02


class Served:
    """A `dragoman serve` under way. `said` is what was read of its output."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said = ""

    async def says(self, mark: str, *, times: int = 1) -> None:
        """Read until `mark` was said so often in all."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while self.said.count(mark) < times:
                line = await self.process.stdout.readline()
                assert line, self.said
                self.said += line.decode()

    async def ready(self) -> int:
        """Read until the process says where it listens, and what it stands on."""
        await self.says("  data ")
        found = re.search(r"http://127\.0\.0\.1:(\d+)", self.said)
        assert found
        return int(found[1])

    async def key(self) -> str:
        """Return the key of the first run."""
        await self.says("admin key")
        return re.findall(r"sk-dm_\w+", self.said)[0]

    def workers(self) -> set[int]:
        """Return the pids of its workers."""
        lines = children(self.process.pid)
        return {pid for pid, line in lines.items() if "gateway.worker" in line}

    async def end(self, number: signal.Signals) -> int:
        """Send a signal, read all that is left to read, and return the exit code."""
        self.process.send_signal(number)
        async with asyncio.timeout(PATIENCE_SECONDS):
            rest, _ = await self.process.communicate()
        self.said += rest.decode()
        return self.process.returncode or 0


@asynccontextmanager
async def serve(
    data_dir: Path,
    *options: str | Path,
    env: Mapping[str, str] | None = None,
    terminal: int | None = None,
) -> AsyncIterator[Served]:
    """Start the command; whatever of it is left at the end is killed.

    `env` is added to ours. `terminal`: a descriptor of one that is to be the command's.
    """
    ours = {name: value for name, value in os.environ.items() if "DRAGOMAN" not in name}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from gateway.cli import main; main()",
        "serve",
        *("--port", "0") * ("--port" not in options),
        "--data-dir",
        data_dir,
        *options,
        stdin=terminal,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"DRAGOMAN__LOGS__FORMAT": "text", **ours, **(env or {})},
        start_new_session=terminal is not None,
        preexec_fn=None if terminal is None else _take_terminal,
    )
    try:
        yield Served(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # a session's leader hears when it is gone


async def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for what the kernel knows and tells nobody about."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():  # noqa: ASYNC110 (see above)
            await asyncio.sleep(POLL_SECONDS)


def children(pid: int) -> dict[int, str]:
    """Return the living children of a process and their command lines."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    pids = [int(child) for told in threads for child in _read(told).split()]
    lines = {child: _read(Path(f"/proc/{child}/cmdline")) for child in pids}
    return {child: line for child, line in lines.items() if line}


def _read(path: Path) -> str:
    """Return what the kernel tells, nothing of what has just gone."""
    try:
        return path.read_text()
    except OSError:
        return ""


def is_running(pid: int) -> bool:
    stat = _read(Path(f"/proc/{pid}/stat"))
    return bool(stat) and stat.rpartition(")")[2].split()[0] not in "ZX"
