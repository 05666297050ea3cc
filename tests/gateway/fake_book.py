"""A book of keys in memory, which the test can hold up or break, and a clock to go with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from gateway.book import BookUnavailable, Changes, FoundKey
from gateway.keys import NewKey, digest

PEPPER = b"p" * 32


class Clock:
    """A time that only the test moves."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds


class FakeBook:
    """Counts the look-ups, and answers them once `answering` is set with what it held before."""

    def __init__(self, *keys: NewKey) -> None:
        self._stored: dict[bytes, FoundKey] = {}
        self._revision = 1
        self._changes: list[tuple[int, bytes]] = []
        self.most_changes = 1_000
        self.asked = 0
        self.asking = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self.polled = asyncio.Event()
        self.broken = False
        self.add(keys)

    def add(self, keys: Iterable[NewKey], **options: Any) -> None:
        """Add keys."""
        for key in keys:
            found = FoundKey(**{"id": key.id, "name": key.id, "created_at": 1, **options})
            self._stored[self._changed(key)] = found

    def change(self, key: NewKey, **options: Any) -> None:
        """Change a key."""
        place = self._changed(key)
        self._stored[place] = replace(self._stored[place], **options)

    async def find_key(self, digest: bytes) -> FoundKey | None:
        self.asked += 1
        self.asking.set()
        found = self._stored.get(digest)
        await self.answering.wait()
        self._check()
        return found

    async def changes_since(self, revision: int) -> Changes:
        self.polled.set()
        self._check()
        changed = [place for number, place in self._changes if number > revision]
        return Changes(self._revision, changed if len(changed) <= self.most_changes else None)

    def _changed(self, key: NewKey) -> bytes:
        place = digest(key.text, PEPPER)
        self._revision += 1
        self._changes.append((self._revision, place))
        return place

    def _check(self) -> None:
        if self.broken:
            raise BookUnavailable("broken")
