"""The embedded state server's append-only file: on the disk a second after it was written.

Valkey could see to that itself (`appendfsync everysec`), but while such an fsync is under way it
answers first and writes later, for up to two seconds (`flushAppendOnlyFile` in its aof.c): killed
then, it has lost what it acknowledged. With `appendfsync no` it always writes first. So a server
that is killed loses nothing, and a machine that loses power a second's work.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

_PAUSE_SECONDS = 1.0

logger = logging.getLogger(__name__)


@asynccontextmanager
async def kept_on_disk(folder: Path) -> AsyncIterator[None]:
    """Meanwhile bring to the disk what a server appends in `folder`, again and again."""
    syncing = asyncio.create_task(_keep_syncing(folder))
    try:
        yield
    finally:
        syncing.cancel()
        await asyncio.wait([syncing])


async def _keep_syncing(folder: Path) -> None:
    while True:
        await asyncio.sleep(_PAUSE_SECONDS)
        try:
            await asyncio.to_thread(_sync, folder)
        except OSError as error:
            logger.warning("the state server's file may not be on the disk: %s", error.strerror)


def _sync(folder: Path) -> None:
    for path in folder.rglob("*.aof"):
        with suppress(FileNotFoundError):  # a shorter one has taken its place
            file = os.open(path, os.O_RDONLY)
            try:
                os.fsync(file)
            finally:
                os.close(file)
