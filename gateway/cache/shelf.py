"""What is kept in the cache store: answers, and the locks of those who make them.

A lock says which worker has an answer made, by a token of that worker. Everything is one trip, and
a store in trouble is never the request's trouble: it is `Away`, and counted.
"""

from __future__ import annotations

from asyncio import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gateway.store import Script, Store, StoreError

LOCK_MS = 5000

_FOLDER = Path(__file__).parent / "lua"
# Tokens are ASCII, but what stands at a lock's key may be anything: it is to survive both ways.
_LATIN = "latin-1"


def script(name: str) -> Script:
    """Return one of the scripts."""
    return Script((_FOLDER / f"{name}.lua").read_text(encoding="utf-8"))


_LOOK, _KEEP, _RELEASE, _RENEW = map(script, ("look", "keep", "release", "renew"))


@dataclass(frozen=True, slots=True)
class Found:
    """The answer is there."""

    value: bytes


@dataclass(frozen=True, slots=True)
class Won:
    """There is no answer, and the lock is ours now."""


@dataclass(frozen=True, slots=True)
class Held:
    """There is no answer, and whoever has the token `holder` is having it made."""

    holder: str


@dataclass(frozen=True, slots=True)
class Away:
    """The store cannot be asked."""


Standing = Found | Won | Held | Away


class Shelf:
    """The cache store, asked about one answer at a time.

    Calls of one turn of the event loop leave in one write. `troubles`: how many of them the store
    has not served.
    """

    def __init__(self, store: Store, *, lock_ms: int = LOCK_MS) -> None:
        """The store's own timeout is all that is ever waited for. It is closed by its owner."""
        self.troubles = 0
        self._store = store
        self._lock_ms = lock_ms

    async def get(self, storage_key: str) -> Found | Away | None:
        """Return the answer, None if there is none."""
        try:
            value = await self._store.call("GET", storage_key)
        except StoreError:
            self.troubles += 1
            return Away()
        return None if value is None else Found(value)

    async def look(
        self, storage_key: str, lock_key: str, *, token: str, dead: str = "", anew: bool = False
    ) -> Standing:
        """Return the answer, or else take the lock with `token`, or else tell who holds it.

        All at one instant, so that nobody wins it whose answer has just been kept. The lock is
        taken away from `dead`. With `anew` it is of no interest what is kept.
        """
        arguments = (_encode(token), _encode(dead), self._lock_ms, int(anew))
        try:
            reply = await self._store.run(_LOOK, (storage_key, lock_key), arguments)
        except StoreError:
            self.troubles += 1
            return Away()
        match reply:
            case [b"found", value]:
                return Found(value)
            case [b"held", holder]:
                return Held(holder.decode(_LATIN))
            case _:
                return Won()

    async def keep(
        self, storage_key: str, lock_key: str, *, token: str, value: bytes, ttl_ms: int
    ) -> bool:
        """Keep an answer and let go of the lock, if it is still of `token`.

        Returns whether the store has done so. An empty token holds no lock.
        """
        arguments = (_encode(token), value, ttl_ms)
        try:
            await self._store.run(_KEEP, (storage_key, lock_key), arguments)
        except StoreError:
            self.troubles += 1
            return False
        return True

    def release(self, lock_key: str, token: str) -> Future[Any]:
        """Let go of the lock, if it is still of `token`. Need not be waited for."""
        return self._count(self._store.run(_RELEASE, (lock_key,), (_encode(token),)))

    def renew(self, lock_key: str, token: str) -> Future[Any]:
        """Prolong the lock, unless another holds it now. Need not be waited for."""
        return self._count(self._store.run(_RENEW, (lock_key,), (_encode(token), self._lock_ms)))

    def _count(self, answer: Future[Any]) -> Future[Any]:
        answer.add_done_callback(self._note)
        return answer

    def _note(self, answer: Future[Any]) -> None:
        if not answer.cancelled() and answer.exception() is not None:
            self.troubles += 1


def _encode(token: str) -> bytes:
    return token.encode(_LATIN)
