"""Lines reach their reader whole, or not at all, and nobody waits for it."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from gateway.logs.lines import Lines
from tests.patience import PATIENCE_SECONDS

LINE = b"x" * 99 + b"\n"


def told(count: int) -> bytes:
    return b"dropped %d\n" % count


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe's ends: what is read, what is written."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def read_until(fd: int, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        assert select.select([fd], [], [], PATIENCE_SECONDS)[0], "nothing comes"
        data += os.read(fd, 1 << 20)
    return data


def test_lines_come_in_order(pipe):
    reader, writer = pipe
    lines = Lines(writer, tell=told, pause_seconds=0)
    for number in range(500):
        lines.put(b"%d\n" % number)
    lines.close()
    assert os.read(reader, 1 << 20).split() == [b"%d" % number for number in range(500)]


def test_lines_are_gathered_into_writes_that_a_pipe_takes_in_one_piece():
    """Each write to this socket is one message."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        lines = Lines(ours.fileno(), tell=told)
        for _ in range(400):
            lines.put(LINE)
        lines.close()
        writes = [theirs.recv(1 << 20) for _ in range(10)]
    assert {len(write) for write in writes} == {select.PIPE_BUF // 100 * 100}


def test_a_line_waits_no_longer_than_the_pause(pipe):
    reader, writer = pipe
    lines = Lines(writer, tell=told, pause_seconds=0.01)
    lines.put(LINE)
    assert read_until(reader, b"\n") == LINE
    lines.close()


def test_a_reader_that_hangs_holds_up_nobody_and_learns_what_it_has_missed(pipe):
    reader, writer = pipe
    lines = Lines(writer, tell=told, pause_seconds=0)
    longest_seconds = 0.0
    for _ in range(30_000):  # 3 MB
        began = time.thread_time()
        lines.put(LINE)
        longest_seconds = max(longest_seconds, time.thread_time() - began)
    assert longest_seconds < 0.05
    assert lines.dropped > 15_000
    read: list[bytes] = []
    while sum(1 if line == LINE else int(line.split()[1]) for line in read) < 30_000:
        read += read_until(reader, b"\n").splitlines(keepends=True)
    assert {line for line in read if line != LINE} == {told(lines.dropped)}
    lines.put(b"again\n")
    assert read_until(reader, b"again\n") == b"again\n"
    lines.close()


def test_a_reader_that_hangs_does_not_hold_up_the_end_for_long(pipe):
    lines = Lines(pipe[1], tell=told, pause_seconds=0)
    for _ in range(5000):
        lines.put(LINE)
    began = time.monotonic()
    lines.close(within_seconds=0.2)
    assert 0.2 <= time.monotonic() - began < 5
    read_until(pipe[0], LINE)


def test_a_process_ends_although_nobody_reads_its_lines():
    program = (
        "from gateway.logs.lines import Lines\n"
        "lines = Lines(1, tell=lambda count: b'')\n"
        "for _ in range(5000): lines.put(b'x' * 99 + b'\\n')\n"
        "lines.close(within_seconds=0.1)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.wait(PATIENCE_SECONDS) == 0


def test_lines_for_a_reader_that_is_gone_are_counted():
    reader, writer = os.pipe()
    os.close(reader)
    lines = Lines(writer, tell=told, pause_seconds=0)
    lines.put(LINE)
    lines.close()
    os.close(writer)
    assert lines.dropped == 1


def test_what_comes_after_the_end_is_counted(pipe):
    lines = Lines(pipe[1], tell=told)
    lines.close()
    lines.put(LINE)
    assert lines.dropped == 1


def test_a_pipe_that_another_process_has_made_non_blocking_is_waited_for(pipe):
    reader, writer = pipe
    os.set_blocking(writer, False)
    lines = Lines(writer, tell=told, pause_seconds=0)
    for _ in range(5000):  # 500 kB: a pipe holds 64
        lines.put(LINE)
    lines.put(b"end\n")
    assert read_until(reader, b"end\n") == LINE * 5000 + b"end\n"
    assert lines.dropped == 0
    lines.close()


def test_long_lines_of_several_processes_are_not_mixed():
    program = (
        "import sys\n"
        "from gateway.logs.lines import Lines\n"
        "lines = Lines(1, tell=lambda count: b'dropped\\n', pause_seconds=0, most_bytes=1 << 30)\n"
        "for _ in range(200): lines.put(sys.argv[1].encode() * 20_000 + b'\\n')\n"
        "lines.close(within_seconds=60)"
    )
    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)  # so that each write has to wait
    processes = [
        subprocess.Popen([sys.executable, "-c", program, letter], stdout=writer) for letter in "abc"
    ]
    os.close(writer)
    with os.fdopen(reader, "rb") as lines:
        read = Counter(lines)
    assert [process.wait(PATIENCE_SECONDS) for process in processes] == [0, 0, 0]
    assert read == {letter * 20_000 + b"\n": 200 for letter in (b"a", b"b", b"c")}
