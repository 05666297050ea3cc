"""Child processes: started in groups, replaced when they die, stopped in reverse order.

A group may depend on the groups started before it, so the last one is stopped first. Children
get a session of their own: Ctrl-C in a terminal reaches the parent alone. On Linux the kernel
ends them when the parent is killed; elsewhere a killed parent leaves them behind.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

logger = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """How to run one child and how to end it.

    `env` is the whole environment, None for the parent's. `pass_fds` keep their numbers. Output
    goes where the parent's goes, there is no input. `drain_seconds` lie between SIGTERM and
    SIGKILL. `orphan_signal` is what the kernel sends when the parent dies: SIGKILL by default,
    because whatever the child would drain into is ending at that moment too. `on_exit` is called
    with process id and exit code of each of its processes once it has ended.
    """

    name: str
    command: tuple[str, ...]
    env: Mapping[str, str] | None = None
    pass_fds: tuple[int, ...] = ()
    restart: bool = True
    drain_seconds: float = 10.0
    orphan_signal: signal.Signals = signal.SIGKILL
    on_exit: Callable[[int, int], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How long a dead child waits for its successor."""

    first_seconds: float = 0.1
    longest_seconds: float = 10.0
    healthy_seconds: float = 10.0

    def delay_seconds(self, early_deaths: int) -> float:
        """Return the wait after so many deaths in a row that came before `healthy_seconds`."""
        if early_deaths == 0:
            return 0.0
        doublings = min(early_deaths - 1, 30)
        return min(self.longest_seconds, self.first_seconds * 2.0**doublings)


class Running:
    """A child and its successors. `exits` counts the deaths, `exit_code` is the last one's."""

    def __init__(self, child: Child, process: asyncio.subprocess.Process, *, backoff: Backoff):
        """Take over `process`, which was just started from `child`."""
        self.child = child
        self.exits = 0
        self.exit_code: int | None = None
        self._process = process
        self._is_told = False
        self._backoff = backoff
        self._keeper = asyncio.create_task(self._keep(), name=f"keep {child.name}")

    @property
    def pid(self) -> int:
        """The process id now, or the last one while none runs."""
        return self._process.pid

    async def stop(self) -> None:
        """Send SIGTERM, wait for at most `drain_seconds`, send SIGKILL; return when it is gone."""
        await self._end(signal.SIGTERM, self.child.drain_seconds)

    async def retire(self, number: signal.Signals, *, seconds: float) -> None:
        """End the child as `stop` does, by another signal and with other patience.

        `stop` may hurry it meanwhile.
        """
        await self._end(number, seconds)

    def kill(self) -> None:
        """Send SIGKILL to the child's process group; it is not replaced."""
        self._keeper.cancel()
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def _end(self, number: signal.Signals, seconds: float) -> None:
        await self._abandon()
        self._signal(number)
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError:
            logger.warning("%s did not end in time and is killed", self.child.name)
            self.kill()
            await self._process.wait()
        self._tell()

    async def _abandon(self) -> None:
        self._keeper.cancel()
        await asyncio.wait([self._keeper])

    def _tell(self) -> None:
        """Call `on_exit`, once for each process."""
        if self.child.on_exit and not self._is_told and self._process.returncode is not None:
            self.child.on_exit(self._process.pid, self._process.returncode)
        self._is_told = True

    def _signal(self, number: signal.Signals) -> None:
        # Not Process.send_signal: it polls, and may so take the exit code from the loop's watcher.
        if self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, number)

    async def _keep(self) -> None:
        early_deaths = 0
        while True:
            started = time.monotonic()
            self.exit_code = await self._process.wait()
            self.exits += 1
            self._tell()
            if not self.child.restart:
                logger.warning("%s ended with code %d", self.child.name, self.exit_code)
                return
            healthy = time.monotonic() - started >= self._backoff.healthy_seconds
            early_deaths = 0 if healthy else early_deaths + 1
            await self._replace(early_deaths)

    async def _replace(self, early_deaths: int) -> None:
        """Start a successor, with more patience each time that this itself fails."""
        while True:
            delay = self._backoff.delay_seconds(early_deaths)
            logger.warning(
                "%s ended with code %d, starts again in %.1f s",
                self.child.name,
                self.exit_code,
                delay,
            )
            await asyncio.sleep(delay)
            try:
                self._process = await _spawn(self.child)
                self._is_told = False
                return
            except OSError as error:
                logger.error("%s cannot be started: %s", self.child.name, error)
                early_deaths += 1


class Supervisor:
    """The children of this process. Use it on the main thread's loop: see `_tie_to_parent`."""

    def __init__(self, *, backoff: Backoff | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._groups: list[list[Running]] = []
        self._is_stopping = False

    async def start(self, *children: Child) -> list[Running]:
        """Start one group and return as soon as its processes exist; none once it is stopping.

        Raises OSError if one cannot be started; those before it run until `stop`.
        """
        group: list[Running] = []
        self._groups.append(group)
        await self.add(group, *children)
        return group

    async def add(self, group: list[Running], *children: Child) -> list[Running]:
        """Start more children in a group that `start` returned, and return them.

        Like `start` in all else.
        """
        added: list[Running] = []
        for child in children:
            if self._is_stopping:
                break
            added.append(Running(child, await _spawn(child), backoff=self._backoff))
            group.append(added[-1])
        return added

    async def retire(
        self, group: list[Running], child: Running, *, number: signal.Signals, seconds: float
    ) -> None:
        """End a child of a group, see `Running.retire`; forget it when it is gone."""
        await child.retire(number, seconds=seconds)
        group.remove(child)

    async def run(self, *, on_signal: Callable[[], None] | None = None) -> int:
        """Keep the children until SIGTERM or SIGINT, stop them and return the exit code.

        Begin it before `start`: until then a signal ends this process at once. `on_signal` is
        called before the children are told to stop.
        0, or 128 + the number of a second signal, which kills what is left at once.
        """
        with _signals(signal.SIGTERM, signal.SIGINT) as received:
            await received.get()
            if on_signal:
                on_signal()
            async with asyncio.TaskGroup() as tasks:
                impatience = tasks.create_task(self._kill_on_next(received))
                await self.stop()
                impatience.cancel()
        return 0 if impatience.cancelled() else 128 + impatience.result()

    async def stop(self) -> None:
        """Stop the groups one after the other, the last first. May be called twice."""
        self._is_stopping = True
        for group in reversed(self._groups):
            await asyncio.gather(*(running.stop() for running in group))

    def kill(self) -> None:
        """Send SIGKILL to all children. `stop` then waits for them to be gone."""
        for group in self._groups:
            for running in group:
                running.kill()

    async def _kill_on_next(self, received: asyncio.Queue[signal.Signals]) -> signal.Signals:
        number = await received.get()
        self.kill()
        return number


@contextmanager
def _signals(*numbers: signal.Signals) -> Iterator[asyncio.Queue[signal.Signals]]:
    """Yield a queue of the signals that arrive, which lose their usual effect meanwhile."""
    loop = asyncio.get_running_loop()
    received: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in numbers:
        loop.add_signal_handler(number, received.put_nowait, number)
    try:
        yield received
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _spawn(child: Child) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *child.command,
        stdin=asyncio.subprocess.DEVNULL,
        env=child.env,
        pass_fds=child.pass_fds,
        start_new_session=True,
        preexec_fn=_tie_to_parent(child.orphan_signal),
    )


def _tie_to_parent(orphan_signal: signal.Signals) -> Callable[[], None] | None:
    """Return what a child runs between fork and exec, so that it dies with its parent.

    It only makes system calls through what is looked up here: after a fork, an import or a lock
    held by another thread would hang. The kernel watches the *thread* that forked (prctl(2)), so
    that must be one that lives as long as the process.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def tie() -> None:
        prctl(PR_SET_PDEATHSIG, int(orphan_signal), 0, 0, 0)
        # The parent may have died before the line above: nobody would tell.
        if os.getppid() != parent:
            os._exit(1)

    return tie
