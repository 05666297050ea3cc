"""A gateway while it runs: pinned to a core, timed as it starts, ended with all it started."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from tests.bench import proc
from tests.bench.client import Connection, Target, WrongAnswer
from tests.bench.gateways import Launch, Unavailable

_START_SECONDS = 120.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.005
# What waiting does not change.
_REFUSALS = tuple(b"HTTP/1.1 %d" % status for status in (400, 401, 402, 403, 422))


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A gateway that answers. Both times count from its spawning to the first 200."""

    pid: int
    target: Target
    health_seconds: float
    answer_seconds: float


@asynccontextmanager
async def running(launch: Launch, *, log: Path, core: int | None) -> AsyncIterator[Running]:
    """Start the gateway on `core`, wait for its first answer, and end it on the way out.

    Its output goes to `log`. Raises Unavailable when it exits or is not ready in two minutes,
    WrongAnswer when it refuses the request.
    """
    spawned_at = perf_counter()
    process = _spawn(launch, log=log, core=core)
    try:
        health_at, answer_at = await _first_answers(launch, process, log=log)
        yield Running(
            pid=process.pid,
            target=launch.target,
            health_seconds=health_at - spawned_at,
            answer_seconds=answer_at - spawned_at,
        )
    finally:
        await asyncio.to_thread(_end, process)


def _spawn(launch: Launch, *, log: Path, core: int | None) -> subprocess.Popen[bytes]:
    """Start the command in a session of its own, so that `proc.tree` finds all of it."""
    pin = () if core is None else ("taskset", "--cpu-list", str(core))
    with log.open("wb") as output:
        return subprocess.Popen(
            (*pin, *launch.command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | launch.environment,
            start_new_session=True,
        )


async def _first_answers(
    launch: Launch, process: subprocess.Popen[bytes], *, log: Path
) -> tuple[float, float]:
    """Return when the health path and the model, both asked at once, first answered 200.

    Raises Unavailable when that does not come about, WrongAnswer when the gateway refuses.
    """
    target = launch.target
    health = f"GET {launch.health_path} HTTP/1.1\r\nhost: {target.host}\r\n\r\n".encode()
    question = target.request("Name one fruit.", tokens=1)
    polls = [_Poll(target, request, process) for request in (health, question)]
    try:
        async with asyncio.timeout(_START_SECONDS), asyncio.TaskGroup() as group:
            health_at, answer_at = (group.create_task(poll.first_200()) for poll in polls)
    except TimeoutError as error:
        seen = [poll.seen[:300] for poll in polls]
        raise Unavailable(f"no 200 in {_START_SECONDS:.0f} s, but {seen!r}") from error
    except ExceptionGroup as failures:
        first = failures.exceptions[0]
        if isinstance(first, ChildProcessError):
            raise Unavailable(f"{first}: {_tail(log)}") from first
        raise first from None
    return health_at.result(), answer_at.result()


class _Poll:
    """Asks again and again; `seen` is the last that was not a 200."""

    def __init__(self, target: Target, request: bytes, process: subprocess.Popen[bytes]) -> None:
        self.seen: bytes = b""
        self._target = target
        self._request = request
        self._process = process

    async def first_200(self) -> float:
        """Return when the first 200 came.

        Raises ChildProcessError when the server has exited, WrongAnswer when it refuses.
        """
        while not self.seen.startswith(b"HTTP/1.1 200"):
            if self._process.poll() is not None:
                raise ChildProcessError(f"exited with {self._process.returncode}")
            with suppress(OSError):
                self.seen = await self._ask()
            answered_at = perf_counter()
            if self.seen.startswith(_REFUSALS):
                raise WrongAnswer(f"refused: {self.seen[-400:]!r}")
            await asyncio.sleep(_POLL_SECONDS)
        return answered_at

    async def _ask(self) -> bytes:
        connection = await Connection.open(self._target)
        try:
            return await connection.exchange(self._request)
        except WrongAnswer:
            return b""  # It hung up: not ready yet.
        finally:
            connection.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the gateway to end, and kill what is left of its tree after a while."""
    members = [member.pid for member in proc.tree(process.pid)]
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_SECONDS)
    for pid in members:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-600:]
