"""The spool: settlements that the state store did not take, on disk until they can be replayed.

A file is complete as soon as it has its name, `<time in ns>-<process>-<number>.jsonl`, and holds
one settlement a line. So the workers that write and the process that replays need no lock.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

logger = logging.getLogger(__name__)

FOLDER = "spool"
"""Its name in the data directory."""
MOST_WAITING_BYTES = 16 * 1024 * 1024


class Spool:
    """Writes lines for one process; what arrives during a write goes to disk with the next one."""

    def __init__(self, folder: Path, *, most_waiting_bytes: int = MOST_WAITING_BYTES) -> None:
        """Write to `folder`, which is made when it is needed."""
        self._folder = folder
        self._most_waiting_bytes = most_waiting_bytes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spool")
        self._waiting: list[_Waiting] = []
        self._waiting_bytes = 0
        self._files = 0
        self._is_closed = False
        self._writing: asyncio.Task[None] | None = None

    def put(self, line: bytes) -> asyncio.Future[None]:
        """Return what is done once `line`, which holds no line feed, is on the disk.

        It raises OSError if that fails, if the disk is so slow that too much waits already, or
        after `aclose`.
        """
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._is_closed:
            written.set_exception(OSError(errno.EBADF, "the spool is closed"))
            return written
        if self._waiting_bytes + len(line) > self._most_waiting_bytes:
            written.set_exception(OSError(errno.ENOBUFS, "too much waits for the disk"))
            return written
        self._waiting.append(_Waiting(line, written))
        self._waiting_bytes += len(line)
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="spool")
        return written

    async def aclose(self) -> None:
        """Write what waits. Nothing can be put any more."""
        self._is_closed = True
        if self._writing is not None:
            await self._writing
        self._thread.shutdown()

    async def _write_all(self) -> None:
        while self._waiting:
            group, self._waiting, self._waiting_bytes = self._waiting, [], 0
            self._files += 1
            path = self._folder / f"{time.time_ns()}-{os.getpid()}-{self._files}.jsonl"
            await self._write(path, group)
        self._writing = None

    async def _write(self, path: Path, group: list[_Waiting]) -> None:
        lines = [waiting.line for waiting in group]
        failure: OSError | None = None
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, _store, path, lines)
        except OSError as error:
            failure = error
            logger.error("%d settlements cannot be kept in %r: %s", len(group), str(path), error)
        for waiting in group:
            waiting.end(failure)


@dataclass(frozen=True, slots=True)
class File:
    """A complete file as it was read."""

    path: Path
    lines: tuple[bytes, ...]

    def keep(self, lines: Iterable[bytes]) -> None:
        """Leave only `lines` in the file, or no file if there are none. Raises OSError."""
        left = tuple(lines)
        if not left:
            self.path.unlink(missing_ok=True)
        elif left != self.lines:
            _store(self.path, left)

    def set_aside(self, lines: Iterable[bytes]) -> Path:
        """Put `lines`, which nobody can use, into a file beside this one. Raises OSError."""
        path = self.path.with_name(f"{self.path.name}.bad")
        before = path.read_bytes().splitlines() if path.exists() else []
        _store(path, (*before, *lines))
        return path


def read(folder: Path) -> Iterator[File]:
    """Yield the complete files, oldest first, and remove what dead processes left unfinished.

    Raises OSError.
    """
    for unfinished in folder.glob("*.tmp"):
        if not _is_alive(_Name.of(unfinished).process):
            unfinished.unlink(missing_ok=True)
    for path in sorted(folder.glob("*.jsonl"), key=_Name.of):
        with suppress(FileNotFoundError):
            yield File(path, tuple(path.read_bytes().splitlines()))


def size_bytes(folder: Path) -> int:
    """Return how much waits in `folder`, that which nobody can use included. Raises OSError."""
    size = 0
    for path in folder.glob("*.jsonl*"):
        with suppress(FileNotFoundError):  # replayed meanwhile
            size += path.stat().st_size
    return size


class _Waiting(NamedTuple):
    line: bytes
    written: asyncio.Future[None]

    def end(self, failure: OSError | None) -> None:
        if self.written.cancelled():
            return
        if failure is None:
            self.written.set_result(None)
        else:
            self.written.set_exception(failure)


class _Name(NamedTuple):
    """What a file's name says. A foreign file is the oldest, and of no process."""

    time_ns: int = 0
    process: int = 0
    number: int = 0

    @classmethod
    def of(cls, path: Path) -> _Name:
        parts = path.name.split(".")[0].split("-")
        if len(parts) != 3 or not all(map(str.isdecimal, parts)):
            return cls()
        return cls(*map(int, parts))


def _store(path: Path, lines: Iterable[bytes]) -> None:
    """Write a file that is either there in whole, also after a power cut, or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.tmp")
    try:
        with open(unfinished, "wb", opener=_open_private) as file:
            file.writelines(line + b"\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        unfinished.rename(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _sync_folder(folder: Path) -> None:
    # rename() is on the disk only when the folder is: fsync(2).
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_alive(process: int) -> bool:
    if process == 0:  # to kill(2) that is a group of processes
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
