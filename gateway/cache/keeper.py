"""Answers into the cache store and out of it again; those too large for it into files."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gateway.cache import records
from gateway.cache.counters import Counts
from gateway.cache.files import AnswerFiles
from gateway.cache.records import BadRecord, Record
from gateway.cache.shelf import Shelf
from gateway.tapes import Piece

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where one answer is kept, under which lock it is made, and for how long it is kept."""

    digest: str
    storage_key: str
    lock_key: str
    ttl_seconds: int


class Keeper:
    """Keeps answers of up to `largest_bytes` in the store, larger ones in `files` if there are any.

    Nothing here raises: what cannot be kept or read is counted, and made anew.
    """

    def __init__(
        self, shelf: Shelf, files: AnswerFiles | None, counts: Counts, *, largest_bytes: int
    ) -> None:
        self._shelf = shelf
        self._files = files
        self._counts = counts
        self._largest_bytes = largest_bytes

    async def keep(self, place: Place, record_id: str, pieces: Sequence[Piece], token: str) -> None:
        """Keep an answer, and let go of the lock that `token` holds."""
        made_at_ms = int(time.time() * 1000)
        payload = records.pack(pieces, made_at_ms=made_at_ms, record_id=record_id)
        if len(payload) > records.LARGEST_BYTES:
            self._counts.too_large += 1
            return
        value = await _run(len(payload), lambda: records.seal(payload, digest=place.digest))
        if len(value) > self._largest_bytes:
            self._counts.too_large += 1
            name = await self._file(value)
            if name is None:
                return
            value = records.seal_reference(
                name, digest=place.digest, made_at_ms=made_at_ms, record_id=record_id
            )
        self._counts.stored += await self._shelf.keep(
            place.storage_key,
            place.lock_key,
            token=token,
            value=value,
            ttl_ms=place.ttl_seconds * 1000,
        )

    async def load(self, place: Place, value: bytes) -> Record | None:
        """Return the answer that a value holds or stands for, None if it cannot be used."""
        try:
            record = await self._open(place, value)
            if record.file is None:
                return record
            content = await self._unfile(record.file)
            return None if content is None else await self._open(place, content)
        except BadRecord as bad:
            self._counts.corrupt += 1
            logger.warning("a value in the cache store is %s: %s", bad.reason, place.storage_key)
            return None

    async def _open(self, place: Place, value: bytes) -> Record:
        return await _run(len(value), lambda: records.decode(value, digest=place.digest))

    async def _file(self, value: bytes) -> str | None:
        """Return the name of the file that holds `value` now, None if it cannot be kept."""
        if self._files is None:
            return None
        try:
            return await asyncio.to_thread(self._files.write, value)
        except OSError as error:
            self._counts.errors += 1
            logger.warning("a large answer is not kept: %s", error)
            return None

    async def _unfile(self, name: str) -> bytes | None:
        """Return what a file holds, None if it is gone, or on another machine."""
        if self._files is None:
            return None
        try:
            return await asyncio.to_thread(self._files.read, name)
        except OSError as error:
            self._counts.errors += 1
            logger.warning("a large answer cannot be read: %s", error)
            return None


async def _run(size_bytes: int, work: Callable[[], T]) -> T:
    """Return what `work` returns, made in a thread if it is on much."""
    return await asyncio.to_thread(work) if size_bytes > records.LOOP_BYTES else work()
