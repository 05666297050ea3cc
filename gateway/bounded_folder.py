"""A folder of files that any number of processes write and read, bounded in what it holds.

A file's modification time tells its age. Whoever writes sweeps: what has expired goes, then the
oldest until the rest fits.
"""

from __future__ import annotations

import errno
import math
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LIMIT_FILES = 10_000  # a sweep looks at each: 3 µs

_PARTIAL = "."
_WRITING_SECONDS = 60.0  # for so long a partial file may have a writer yet


class BoundedFolder:
    """The files in `path`, which is made when it is first needed. Blocks: call off the loop.

    The limits hold for all files together, whoever wrote them. Names are the caller's, and safe.
    """

    def __init__(
        self,
        path: Path,
        *,
        limit_bytes: int,
        limit_files: int = LIMIT_FILES,
        lifetime_seconds: float = math.inf,
    ) -> None:
        self._path = path
        self._limit_bytes = limit_bytes
        self._limit_files = limit_files
        self._lifetime_seconds = lifetime_seconds

    def write(self, name: str, data: bytes) -> None:
        """Make room for a file and write it; nobody sees a part of it. Raises OSError."""
        if len(data) > self._limit_bytes:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
        self._path.mkdir(mode=0o700, exist_ok=True)
        self._sweep(coming_bytes=len(data))
        # One that a crash leaves behind is swept like any other.
        partial = self._path / f"{_PARTIAL}{secrets.token_hex(8)}"
        descriptor = os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            partial.replace(self._path / name)
        except OSError:
            partial.unlink(missing_ok=True)
            raise

    def read(self, name: str) -> bytes | None:
        """Return a file's content; None if it has expired or never was. Raises OSError."""
        path = self._path / name
        with suppress(FileNotFoundError):
            if path.stat().st_mtime > time.time() - self._lifetime_seconds:
                return path.read_bytes()
        return None

    def refresh(self, name: str) -> None:
        """Make a file as young as a new one, if it is there."""
        with suppress(FileNotFoundError):
            os.utime(self._path / name)

    def remove(self, name: str) -> bool:
        """Remove a file and tell whether it was there. Raises OSError."""
        try:
            (self._path / name).unlink()
        except FileNotFoundError:
            return False
        return True

    def measure(self) -> tuple[int, int]:
        """Return how many files there are, and their size in bytes. Raises OSError."""
        sizes = [size_bytes for _, size_bytes, _ in self._entries()]
        return len(sizes), sum(sizes)

    def _sweep(self, *, coming_bytes: int) -> None:
        """Make room for a file of `coming_bytes`. Others may sweep at the same time."""
        newest_first = sorted(self._entries(), reverse=True)
        now, total_bytes = time.time(), coming_bytes
        for rank, (written_at, size_bytes, path) in enumerate(newest_first, start=1):
            total_bytes += size_bytes
            is_over = total_bytes > self._limit_bytes or rank >= self._limit_files
            is_needed = path.name.startswith(_PARTIAL) and written_at > now - _WRITING_SECONDS
            if (is_over and not is_needed) or written_at <= now - self._lifetime_seconds:
                path.unlink(missing_ok=True)

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yield the time, the size in bytes and the path of each file."""
        with suppress(FileNotFoundError), os.scandir(self._path) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    yield status.st_mtime, status.st_size, Path(entry.path)
