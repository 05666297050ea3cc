"""Answers that are too large for the cache store: files named after their content."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from gateway.bounded_folder import BoundedFolder

FOLDER = "answers"  # of the data directory

_NAME = re.compile(r"[0-9a-f]{64}")


class AnswerFiles:
    """The files in `folder`, which is made when it is first needed. Blocks: call off the loop.

    `limit_bytes` holds for all files together, whichever worker wrote them. To make room for
    another one, those go first that were not read for longest.
    """

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder = BoundedFolder(folder, limit_bytes=limit_bytes)

    def write(self, data: bytes) -> str:
        """Keep `data` and return the name of its file. Raises OSError, also for too much."""
        name = hashlib.sha256(data).hexdigest()
        self._folder.write(name, data)
        return name

    def read(self, name: str) -> bytes | None:
        """Return what was kept under that name, None if it is gone. Raises OSError.

        A file whose content is not what its name says goes too.
        """
        if not _NAME.fullmatch(name) or (data := self._folder.read(name)) is None:
            return None
        if hashlib.sha256(data).hexdigest() != name:
            self._folder.remove(name)
            return None
        self._folder.refresh(name)
        return data

    def remove(self, name: str) -> bool:
        """Remove a file and tell whether it was there. Raises OSError."""
        return bool(_NAME.fullmatch(name)) and self._folder.remove(name)

    def measure(self) -> tuple[int, int]:
        """Return how many files there are, and their size in bytes. Raises OSError."""
        return self._folder.measure()
