"""Lines on their way to a file descriptor. Whoever has one to write never waits for a reader."""

from __future__ import annotations

import fcntl
import os
import select
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

_BATCH_BYTES = 64 * 1024
_MOST_WAITING_BYTES = 1024 * 1024


class Lines:
    """Writes whole lines to `fd` from a thread of its own, every `pause_seconds` while there are
    any, and whenever 64 KiB have come together.

    At most `most_bytes` wait. Lines beyond are dropped and counted; once it flows again, the line
    that `tell` makes of their number says so. `fd` stays open, and blocking: it is shared with
    other processes.
    """

    def __init__(
        self,
        fd: int,
        *,
        tell: Callable[[int], bytes],
        pause_seconds: float = 0.1,
        most_bytes: int = _MOST_WAITING_BYTES,
    ) -> None:
        self.dropped = 0
        self._fd = fd
        self._tell = tell
        self._pause_seconds = pause_seconds
        self._most_bytes = most_bytes
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0  # those that are being written included
        self._untold = 0
        self._is_closed = False
        self._thread: threading.Thread | None = None
        # Its lock can be taken again by the thread that has it: the collector may come in between,
        # and run what logs.
        self._changed = threading.Condition()

    def put(self, line: bytes) -> None:
        """Have `line`, which ends in a newline, written soon. From any thread; never waits."""
        with self._changed:
            before = self._waiting_bytes
            if self._is_closed or before + len(line) > self._most_bytes:
                self._count_dropped(1)
                return
            self._waiting_bytes += len(line)
            self._waiting.append(line)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="log", daemon=True)
                self._thread.start()
            if len(self._waiting) == 1 or before < _BATCH_BYTES <= self._waiting_bytes:
                self._changed.notify()

    def close(self, *, within_seconds: float = 1.0) -> None:
        """Write what waits, as far as that is possible in time. What comes later is dropped."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(within_seconds)

    def _run(self) -> None:
        while batch := self._next():
            with _alone_at(self._fd):
                self._write(batch)
                self._tell_dropped()

    def _next(self) -> list[bytes]:
        """Return the lines to write, once it is time; none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            self._changed.wait_for(
                lambda: self._waiting_bytes >= _BATCH_BYTES or self._is_closed, self._pause_seconds
            )
            batch, self._waiting = self._waiting, []
            return batch

    def _write(self, batch: Iterable[bytes]) -> None:
        for lines in _portions(batch):
            data = b"".join(lines)
            is_written = _write_all(self._fd, data)
            with self._changed:
                self._waiting_bytes -= len(data)
                if not is_written:
                    self._count_dropped(len(lines))

    def _tell_dropped(self) -> None:
        with self._changed:
            count, self._untold = self._untold, 0
        if count and not _write_all(self._fd, self._tell(count)):
            with self._changed:
                self._untold += count

    def _count_dropped(self, count: int) -> None:
        self.dropped += count
        self._untold += count


def _portions(lines: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Yield `lines` in groups that a pipe takes in one piece, as far as a line is no longer.

    pipe(7): writes of up to PIPE_BUF bytes are atomic, others may be mixed with those of other
    processes.
    """
    portion: list[bytes] = []
    size = 0
    for line in lines:
        if portion and size + len(line) > select.PIPE_BUF:
            yield portion
            portion, size = [], 0
        portion.append(line)
        size += len(line)
    if portion:
        yield portion


@contextmanager
def _alone_at(fd: int) -> Iterator[None]:
    """Keep the other processes that do the same off a pipe: a line may be longer than it takes in
    one piece.
    """
    with suppress(OSError):
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            fcntl.lockf(fd, fcntl.LOCK_EX)
    try:
        yield
    finally:
        with suppress(OSError):
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                fcntl.lockf(fd, fcntl.LOCK_UN)


def _write_all(fd: int, data: bytes) -> bool:
    """Write `data`, however long that takes. Return False if it cannot be."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # another process that has it made it so
            select.select([], [fd], [])
        except OSError:
            return False
    return True
