"""Images that clients fetch by address: files that every worker can serve, for an hour.

A file's name is its only key, so it cannot be guessed; its modification time tells its age.
Whoever writes sweeps: what has expired goes, then the oldest until the rest fits.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

PATH = "/files"
LIFETIME_SECONDS = 3600.0
LIMIT_BYTES = 512 * 1024 * 1024
LIMIT_FILES = 10_000  # a sweep looks at each: 3 µs

_NAME = re.compile(r"[\w-]{32}\.(png|jpeg|webp)", re.ASCII)
_TOKEN_BYTES = 24


class ImageFiles:
    """The images in `directory`, which is made when it is first needed. Blocks: call off the loop.

    `limit_bytes` holds for all files together, whichever worker wrote them.
    """

    def __init__(self, directory: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes

    def write(self, data: bytes, form: str) -> str:
        """Keep an image of format `form` (png, jpeg or webp) and return its file's name.

        Raises OSError.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        self._sweep(coming_bytes=len(data))
        name = f"{secrets.token_urlsafe(_TOKEN_BYTES)}.{form}"
        descriptor = os.open(self._directory / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        return name

    def read(self, name: str) -> bytes | None:
        """Return the image of that name; None if it has expired or never was."""
        if not _NAME.fullmatch(name):
            return None
        path = self._directory / name
        with suppress(FileNotFoundError):
            if path.stat().st_mtime > time.time() - LIFETIME_SECONDS:
                return path.read_bytes()
        return None

    def _sweep(self, *, coming_bytes: int) -> None:
        """Make room for a file of `coming_bytes`. Other workers may sweep at the same time."""
        newest_first = sorted(self._entries(), reverse=True)
        expired_at = time.time() - LIFETIME_SECONDS
        total_bytes = coming_bytes
        for rank, (written_at, size_bytes, path) in enumerate(newest_first, start=1):
            total_bytes += size_bytes
            is_over = total_bytes > self._limit_bytes or rank >= LIMIT_FILES
            if is_over or written_at <= expired_at:
                with suppress(FileNotFoundError):
                    path.unlink()

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yield the time, the size in bytes and the path of each file."""
        with os.scandir(self._directory) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat()
                    yield status.st_mtime, status.st_size, Path(entry.path)
