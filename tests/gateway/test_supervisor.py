import asyncio
import logging
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest

from gateway import supervisor as supervisor_module
from gateway.supervisor import Backoff, Child, Running, Supervisor
from tests.patience import PATIENCE_SECONDS, within

pytestmark = pytest.mark.anyio

PROJECT = Path(supervisor_module.__file__).parents[1]
QUICK = Backoff(first_seconds=0.0, longest_seconds=0.0)

# Reports `NAME up PID` on a descriptor, then `NAME down` when told to end.
OBEDIENT = """
import os, signal, sys
name, report = sys.argv[1], int(sys.argv[2])
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
os.write(report, f"{name} up {os.getpid()}\\n".encode())
signal.sigwait({signal.SIGTERM})
os.write(report, f"{name} down\\n".encode())
"""

# Reports the signals that it gets, and ends at the first, or at SIGTERM.
HEEDFUL = """
import os, signal, sys
numbers = {signal.SIGTERM, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
os.write(int(sys.argv[2]), f"{sys.argv[1]} up {os.getpid()}\\n".encode())
while True:
    number = signal.sigwait(numbers)
    os.write(int(sys.argv[2]), f"told {number:d}\\n".encode())
    if number == signal.SIGTERM:
        sys.exit(0)
    break
"""

STUBBORN = """
import os, signal, sys
signal.signal(signal.SIGTERM, lambda *_: os.write(int(sys.argv[2]), b"deaf\\n"))
os.write(int(sys.argv[2]), f"{sys.argv[1]} up {os.getpid()}\\n".encode())
while True:
    signal.pause()
"""

DOOMED = """
import os, sys, time
os.write(int(sys.argv[2]), f"{time.monotonic()}\\n".encode())
sys.exit(3)
"""

PARENT = """
import asyncio, logging, sys
from gateway.supervisor import Child, Supervisor

async def main():
    name, code, report = sys.argv[1:]
    supervisor = Supervisor()
    command = (sys.executable, "-S", "-c", code, name, report)
    ending = asyncio.create_task(supervisor.run())
    await asyncio.sleep(0)
    await supervisor.start(Child(name=name, command=command, pass_fds=(int(report),)))
    return await ending

logging.basicConfig(format="parent: %(message)s")
sys.exit(asyncio.run(main()))
"""


class Reports:
    """The reading end of a pipe that children write lines to."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        self._lines = asyncio.StreamReader()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(self._lines), os.fdopen(self._read, "rb")
        )

    async def line(self) -> str:
        async with asyncio.timeout(PATIENCE_SECONDS):
            return (await self._lines.readline()).decode().strip()

    async def pid(self) -> int:
        """Return the pid of the next child that comes up."""
        _, up, pid = (await self.line()).split()
        assert up == "up"
        return int(pid)

    def close(self) -> None:
        os.close(self.write)
        self._transport.close()


@pytest.fixture
async def reports() -> AsyncIterator[Reports]:
    opened = Reports()
    await opened.open()
    yield opened
    opened.close()


def child(reports: Reports, code: str = OBEDIENT, *, name: str = "worker") -> Child:
    command = (sys.executable, "-S", "-c", code, name, str(reports.write))
    return Child(
        name=name, command=command, pass_fds=(reports.write,), drain_seconds=PATIENCE_SECONDS
    )


def parent(reports: Reports, code: str = OBEDIENT) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, "worker", code, str(reports.write)],
        cwd=PROJECT,
        pass_fds=[reports.write],
        stderr=subprocess.PIPE,
        text=True,
    )


async def gone(pid: int, *, within_seconds: float) -> bool:
    """Wait for a process that need not be a child of ours."""
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ready, _, _ = await asyncio.to_thread(select.select, [watch], [], [], within_seconds)
        return bool(ready)
    finally:
        os.close(watch)


async def died(running: Running) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not running.exits:  # noqa: ASYNC110 (a death is counted, not announced)
            await asyncio.sleep(0.001)


async def test_child_is_replaced_after_kill_9(reports: Reports) -> None:
    supervisor = Supervisor(backoff=QUICK)
    [running] = await supervisor.start(child(reports))
    first = await reports.pid()
    assert first == running.pid

    os.kill(first, signal.SIGKILL)
    second = await reports.pid()

    assert second == running.pid != first
    assert (running.exits, running.exit_code) == (1, -signal.SIGKILL)
    await supervisor.stop()


async def test_last_group_is_stopped_first_and_whole_before_the_next(reports: Reports) -> None:
    supervisor = Supervisor()
    await supervisor.start(child(reports, name="store"))
    await reports.pid()
    await supervisor.start(child(reports, name="worker"), child(reports, name="worker"))
    await reports.pid()
    await reports.pid()

    await supervisor.stop()

    assert [await reports.line() for _ in range(3)] == ["worker down", "worker down", "store down"]


async def test_stopped_child_is_not_replaced(
    reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(backoff=QUICK)
    [running] = await supervisor.start(child(reports))
    pid = await reports.pid()

    await supervisor.stop()
    await supervisor.stop()

    assert await gone(pid, within_seconds=0)
    assert running.pid == pid
    assert caplog.messages == []


async def test_child_that_does_not_end_in_time_is_killed(reports: Reports) -> None:
    supervisor = Supervisor()
    deaf = child(reports, STUBBORN)
    await supervisor.start(
        Child(name="deaf", command=deaf.command, pass_fds=deaf.pass_fds, drain_seconds=0.05)
    )
    pid = await reports.pid()

    async with within(5):  # half of what a child has by default
        await supervisor.stop()

    assert await reports.line() == "deaf"
    assert await gone(pid, within_seconds=0)


async def test_child_with_restart_off_is_left_dead(
    reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(backoff=QUICK)
    doomed = child(reports, DOOMED)
    [running] = await supervisor.start(
        Child(name="once", command=doomed.command, pass_fds=doomed.pass_fds, restart=False)
    )
    pid = running.pid

    await died(running)
    await supervisor.stop()

    assert running.pid == pid
    assert caplog.messages == ["once ended with code 3"]


async def test_children_join_a_group_and_end_with_it(reports: Reports) -> None:
    supervisor = Supervisor()
    group = await supervisor.start(child(reports, name="first"))
    await reports.pid()
    [second] = await supervisor.add(group, child(reports, name="second"))
    assert await reports.pid() == second.pid

    await supervisor.stop()

    assert {await reports.line() for _ in range(2)} == {"first down", "second down"}


async def test_retired_child_is_told_by_its_own_signal_and_not_replaced(reports: Reports) -> None:
    supervisor = Supervisor(backoff=QUICK)
    group = await supervisor.start(child(reports), child(reports, HEEDFUL))
    await reports.pid()
    await reports.pid()
    old = group[1]

    await supervisor.retire(group, old, number=signal.SIGUSR1, seconds=PATIENCE_SECONDS)

    assert await reports.line() == f"told {signal.SIGUSR1:d}"
    assert await gone(old.pid, within_seconds=0)
    assert old not in group
    assert len(group) == 1
    await supervisor.stop()


async def test_stop_hurries_a_child_that_retires(reports: Reports) -> None:
    supervisor = Supervisor()
    group = await supervisor.start(child(reports, HEEDFUL.replace("break", "continue")))
    await reports.pid()
    retiring = asyncio.create_task(
        supervisor.retire(group, group[0], number=signal.SIGUSR1, seconds=PATIENCE_SECONDS)
    )
    assert await reports.line() == f"told {signal.SIGUSR1:d}"

    await supervisor.stop()

    assert await reports.line() == f"told {signal.SIGTERM:d}"
    await retiring
    assert group == []


async def test_each_end_is_told_once(reports: Reports) -> None:
    told: list[tuple[int, int]] = []
    supervisor = Supervisor(backoff=QUICK)
    heedful = replace(child(reports), on_exit=lambda pid, code: told.append((pid, code)))
    await supervisor.start(heedful)
    first = await reports.pid()
    os.kill(first, signal.SIGKILL)
    second = await reports.pid()
    assert told == [(first, -signal.SIGKILL)]

    await supervisor.stop()
    await supervisor.stop()

    assert told == [(first, -signal.SIGKILL), (second, 0)]


def test_delay_doubles_up_to_its_longest_and_starts_over_after_good_health() -> None:
    backoff = Backoff(first_seconds=0.1, longest_seconds=1.0)

    delays = [backoff.delay_seconds(deaths) for deaths in (0, 1, 2, 3, 4, 5, 6, 10_000)]

    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0]


async def test_child_that_dies_at_once_again_and_again_is_started_less_and_less_often(
    reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(backoff=Backoff(first_seconds=0.1, longest_seconds=0.4))
    began = time.monotonic()
    await supervisor.start(child(reports, DOOMED))

    starts = [float(await reports.line()) for _ in range(5)]
    await supervisor.stop()

    delays = (0.0, 0.1, 0.2, 0.4, 0.4)
    # From the beginning, as no start can come sooner, however long some of them take.
    earliest = [began + seconds for seconds in accumulate(delays)]
    assert all(start >= least for start, least in zip(starts, earliest, strict=True))
    told = re.findall(r"starts again in (.*) s", caplog.text)
    assert told[:4] == [f"{delay:.1f}" for delay in delays[1:]]


async def test_healthy_child_is_replaced_without_delay(reports: Reports) -> None:
    patient = Backoff(first_seconds=60, longest_seconds=60, healthy_seconds=0)
    supervisor = Supervisor(backoff=patient)
    await supervisor.start(child(reports))

    os.kill(await reports.pid(), signal.SIGKILL)

    assert await reports.pid()
    await supervisor.stop()


async def test_stop_does_not_wait_for_a_child_that_is_to_start_later(reports: Reports) -> None:
    supervisor = Supervisor(backoff=Backoff(first_seconds=600, longest_seconds=600))
    [running] = await supervisor.start(child(reports, DOOMED))
    await reports.line()
    await died(running)

    async with asyncio.timeout(PATIENCE_SECONDS):
        await supervisor.stop()

    assert await gone(running.pid, within_seconds=0)


async def test_successor_that_cannot_be_started_is_tried_again(
    reports: Reports, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    program = tmp_path / "program"
    program.symlink_to(sys.executable)
    obedient = child(reports)
    supervisor = Supervisor(backoff=Backoff(first_seconds=0.01, longest_seconds=0.01))
    await supervisor.start(
        Child(
            name="worker",
            command=(str(program), *obedient.command[1:]),
            pass_fds=obedient.pass_fds,
        )
    )
    pid = await reports.pid()

    program.unlink()
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not any("cannot be started" in message for message in caplog.messages):  # noqa: ASYNC110 (a log)
            await asyncio.sleep(0.001)
    program.symlink_to(sys.executable)

    assert await reports.pid() != pid
    await supervisor.stop()


async def test_program_that_does_not_exist_is_told_at_the_start() -> None:
    supervisor = Supervisor()

    with pytest.raises(FileNotFoundError):
        await supervisor.start(Child(name="nothing", command=("/nonexistent/program",)))

    await supervisor.stop()


async def test_child_serves_on_an_inherited_socket() -> None:
    code = (
        "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); s.accept()[0].send(b'hi')"
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.fileno()
        supervisor = Supervisor()
        command = (sys.executable, "-S", "-c", code, str(number))
        await supervisor.start(Child(name="web", command=command, pass_fds=(number,)))

        reader, writer = await asyncio.open_connection(*listener.getsockname())
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await reader.read() == b"hi"
        writer.close()
        await supervisor.stop()


async def test_child_has_a_session_and_the_environment_of_its_own(reports: Reports) -> None:
    code = (
        "import os, sys; me = os.getpid() == os.getsid(0) == os.getpgid(0);"
        "os.write(int(sys.argv[1]), f'{me} {os.environ.get(\"A\")} {len(os.environ)}\\n'.encode())"
    )
    supervisor = Supervisor()
    command = (sys.executable, "-S", "-c", code, str(reports.write))
    await supervisor.start(
        Child(
            name="worker",
            command=command,
            pass_fds=(reports.write,),
            env={"A": "1", "LC_ALL": "C.UTF-8"},
        )
    )

    assert await reports.line() == "True 1 2"
    await supervisor.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_parent_told_to_end_stops_its_children_and_exits_0(
    reports: Reports, number: signal.Signals
) -> None:
    with parent(reports) as process:
        pid = await reports.pid()
        process.send_signal(number)

        assert await reports.line() == "worker down"
        assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 0
        assert await gone(pid, within_seconds=0)


async def test_nothing_is_started_once_it_is_stopping(reports: Reports) -> None:
    supervisor = Supervisor()
    await supervisor.stop()

    assert await supervisor.start(child(reports)) == []


async def test_second_ctrl_c_kills_what_is_still_draining(reports: Reports) -> None:
    with parent(reports, STUBBORN) as process:
        pid = await reports.pid()
        process.send_signal(signal.SIGINT)
        assert await reports.line() == "deaf"

        process.send_signal(signal.SIGINT)

        assert await asyncio.to_thread(process.wait, PATIENCE_SECONDS) == 128 + signal.SIGINT
        assert await gone(pid, within_seconds=0)


async def test_children_die_with_a_parent_that_is_killed(reports: Reports) -> None:
    with parent(reports, STUBBORN) as process:
        pid = await reports.pid()

        process.kill()

        assert await gone(pid, within_seconds=PATIENCE_SECONDS)


async def test_what_a_child_writes_to_stderr_reaches_the_parents(reports: Reports) -> None:
    broken = "import os; os.write(int(__import__('sys').argv[2]), b'x up 1\\n'); 1 / 0"
    with parent(reports, broken) as process:
        for _ in range(2):
            await reports.pid()
        process.terminate()
        _, errors = await asyncio.to_thread(process.communicate, timeout=PATIENCE_SECONDS)

    assert "ZeroDivisionError" in errors
    assert "parent: worker ended with code 1, starts again in 0.1 s" in errors


async def test_death_is_logged_with_name_and_code(
    reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(backoff=QUICK)
    await supervisor.start(child(reports))
    os.kill(await reports.pid(), signal.SIGKILL)
    await reports.pid()
    await supervisor.stop()

    assert caplog.record_tuples == [
        ("gateway.supervisor", logging.WARNING, "worker ended with code -9, starts again in 0.0 s")
    ]
