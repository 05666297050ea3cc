"""Images that clients fetch by address: files that every worker can serve, for an hour.

A file's name is its only key, so it cannot be guessed.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path

from gateway.bounded_folder import BoundedFolder

PATH = "/files"
LIFETIME_SECONDS = 3600.0
LIMIT_BYTES = 512 * 1024 * 1024
LIMIT_FILES = 10_000

_NAME = re.compile(r"[\w-]{32}\.(png|jpeg|webp)", re.ASCII)
_TOKEN_BYTES = 24


class ImageFiles:
    """The images in `directory`, which is made when it is first needed. Blocks: call off the loop.

    `limit_bytes` holds for all files together, whichever worker wrote them.
    """

    def __init__(self, directory: Path, *, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder = BoundedFolder(
            directory,
            limit_bytes=limit_bytes,
            limit_files=LIMIT_FILES,
            lifetime_seconds=LIFETIME_SECONDS,
        )

    def write(self, data: bytes, form: str) -> str:
        """Keep an image of format `form` (png, jpeg or webp) and return its file's name.

        Raises OSError.
        """
        name = f"{secrets.token_urlsafe(_TOKEN_BYTES)}.{form}"
        self._folder.write(name, data)
        return name

    def read(self, name: str) -> bytes | None:
        """Return the image of that name; None if it has expired or never was."""
        return self._folder.read(name) if _NAME.fullmatch(name) else None
