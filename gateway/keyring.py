"""The keyring: who a key belongs to, from memory for as long as the book stands by it.

A look-up's answer is kept until the book tells that the key has changed. The keyring asks for
changes twice a second, so a revocation, a new limit or a new key is known to every worker within
a second, without a message between processes and without a look-up for what did not change.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, Self

from gateway.book import BookError, BookUnavailable, Changes, FoundKey
from gateway.keys import KEY_LENGTH, Caller, InvalidKey, Reason, digest, parse

logger = logging.getLogger(__name__)


class KeySource(Protocol):
    """The part of the book that a keyring asks. Both raise BookUnavailable."""

    async def find_key(self, digest: bytes) -> FoundKey | None:
        """Return the key with this digest."""

    async def changes_since(self, revision: int) -> Changes:
        """Return what changed after `revision`; 0 is before everything."""


class Keyring:
    """Callers by the digests of their keys, at most `size`; the least recently used goes first.

    Follows the book inside `async with`; without that it remembers no caller. With the book gone,
    callers in memory are good for `stale_seconds` after it last answered, and a look-up is given
    up after `lookup_seconds`. Refusals are remembered apart, so that a flood of invented keys
    pushes nobody out.
    """

    def __init__(
        self,
        book: KeySource,
        pepper: bytes,
        *,
        size: int = 10_000,
        poll_seconds: float = 0.5,
        lookup_seconds: float = 5.0,
        refused_seconds: float = 2.0,
        stale_seconds: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._book = book
        self._pepper = pepper
        self._size = size
        self._poll_seconds = poll_seconds
        self._lookup_seconds = lookup_seconds
        self._stale_seconds = stale_seconds
        self._clock = clock
        self._now = now
        self._callers: OrderedDict[bytes, Caller] = OrderedDict()
        self._refusals = _Refusals(size, refused_seconds, clock=clock)
        self._lookups: dict[bytes, asyncio.Task[Caller | Reason]] = {}
        self._revision = 0
        self._stale_at = -math.inf
        self._follower: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._follower = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stale_at = -math.inf
        tasks = [task for task in (self._follower, *self._lookups.values()) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def cached(self, text: str) -> Caller | None:
        """Return the caller if memory knows the key to be good now, else ask `authenticate`."""
        if len(text) != KEY_LENGTH:
            return None
        caller = self._remembered(digest(text, self._pepper))
        return None if caller is None or self._has_expired(caller) else caller

    async def authenticate(self, text: str | None) -> Caller:
        """Return the key's owner. Raises InvalidKey and BookUnavailable.

        Calls at the same time for one key share one look-up.
        """
        if not text:
            raise InvalidKey("missing")
        if parse(text) is None:
            raise InvalidKey("malformed")
        key = digest(text, self._pepper)
        found = self._remembered(key) or self._refusals.get(key) or await self._look_up(key)
        if not isinstance(found, Caller):
            raise InvalidKey(found)
        if self._has_expired(found):
            raise InvalidKey("expired")
        return found

    async def refresh(self) -> None:
        """Ask the book what has changed, and forget that. Raises BookError."""
        asked_at = self._clock()
        changes = await self._book.changes_since(self._revision)
        self._forget(changes.digests)
        self._revision = changes.revision
        self._stale_at = asked_at + self._stale_seconds

    async def _follow(self) -> None:
        is_answering = True
        while True:
            try:
                await self.refresh()
            except BookError as error:
                if is_answering:
                    logger.warning("the book does not tell what changed: %s", error)
                is_answering = False
            else:
                is_answering = True
            await asyncio.sleep(self._poll_seconds)

    def _remembered(self, key: bytes) -> Caller | None:
        caller = self._callers.get(key)
        if caller is None or self._clock() >= self._stale_at:
            return None
        self._callers.move_to_end(key)
        return caller

    def _has_expired(self, caller: Caller) -> bool:
        return caller.expires_at is not None and caller.expires_at <= self._now()

    async def _look_up(self, key: bytes) -> Caller | Reason:
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = self._lookups[key] = asyncio.create_task(self._find(key))
            lookup.add_done_callback(partial(self._keep, key))
        # One of those who wait may be cancelled; the look-up goes on for the others.
        return await asyncio.shield(lookup)

    async def _find(self, key: bytes) -> Caller | Reason:
        try:
            # Those that queue for a book which hangs must not hold up the question what changed.
            async with asyncio.timeout(self._lookup_seconds):
                found = await self._book.find_key(key)
        except TimeoutError:
            raise BookUnavailable(f"no answer within {self._lookup_seconds:g} s") from None
        if found is None:
            return "unknown"
        return "revoked" if found.revoked_at is not None else _caller(found)

    def _keep(self, key: bytes, lookup: asyncio.Task[Caller | Reason]) -> None:
        """Remember an answer, unless the key has changed since the question."""
        is_current = self._lookups.get(key) is lookup
        if is_current:
            del self._lookups[key]
        if lookup.cancelled() or lookup.exception() or not is_current:
            return
        found = lookup.result()
        if isinstance(found, Caller):
            self._callers[key] = found
            self._callers.move_to_end(key)
            if len(self._callers) > self._size:
                self._callers.popitem(last=False)
        else:
            self._refusals.put(key, found)

    def _forget(self, keys: Iterable[bytes] | None) -> None:
        """Drop `keys`, or all, also what look-ups under way are about to answer."""
        if keys is None:
            self._callers.clear()
            self._refusals.clear()
            self._lookups.clear()
            return
        for key in keys:
            self._callers.pop(key, None)
            self._refusals.pop(key)
            self._lookups.pop(key, None)


class _Refusals:
    """At most `size` reasons, each for `lifetime_seconds` from when it was put in."""

    def __init__(self, size: int, lifetime_seconds: float, *, clock: Callable[[], float]) -> None:
        self._size = size
        self._lifetime_seconds = lifetime_seconds
        self._clock = clock
        self._entries: OrderedDict[bytes, tuple[Reason, float]] = OrderedDict()

    def get(self, key: bytes) -> Reason | None:
        entry = self._entries.get(key)
        return entry[0] if entry is not None and self._clock() < entry[1] else None

    def put(self, key: bytes, reason: Reason) -> None:
        # All live equally long: the first in is the first to die.
        self._entries[key] = (reason, self._clock() + self._lifetime_seconds)
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)

    def pop(self, key: bytes) -> None:
        self._entries.pop(key, None)

    def clear(self) -> None:
        self._entries.clear()


def _caller(found: FoundKey) -> Caller:
    """Return the owner of a living key. A text that was rotated out may end before its key."""
    ends = [end for end in (found.expires_at, found.digest_expires_at) if end is not None]
    return Caller(
        id=found.id,
        name=found.name,
        team=found.team,
        models=found.models,
        limits=found.limits,
        team_limits=found.team_limits,
        expires_at=min(ends, default=None),
    )
