"""The ledger's writer, one in each gateway: what has to be done beside the requests.

It moves records from the state store to the book, counts anew what the store has lost, ends leases
whose holders are gone, and makes up for settlements from the spool.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from gateway import counters
from gateway.accounts import SHARDS, shard_keys, tag
from gateway.book import Book, BookError
from gateway.drain import Drain, Lag
from gateway.ledger_stream import PAGE
from gateway.quotas import RECLAIM
from gateway.replay import replay
from gateway.store import Store, StoreError, StoreUnavailable

logger = logging.getLogger(__name__)

LEASE_KEY = f"writer:{tag(0)}"
_LEASE_MS = 5000
_BUSY_SECONDS = 0.2
_IDLE_SECONDS = 1.0
_REPLAY_SECONDS = 1.0
_RECLAIM_SECONDS = 5.0
_FIRST_RETRY_SECONDS = 0.2
_LAST_RETRY_SECONDS = 5.0
_START_SECONDS = 0.5
_END_SECONDS = 3.0


class Writer:
    """Works inside `async with`, and at its end moves what still waits.

    Several gateways may share the stores: one of them leads, for as long as it renews its lease.
    Two at once would do no harm. `state` should have seconds of patience, as pages are large.
    """

    def __init__(self, state: Store, book: Book, spool: Path) -> None:
        """Close the store and the book after the writer."""
        self._state = state
        self._book = book
        self._spool = spool
        self._drain = Drain(state, book)
        self._token = secrets.token_hex(8).encode()
        self._is_leading = False
        self._are_counters_known = asyncio.Event()
        self._pause_seconds = _BUSY_SECONDS
        self._chores: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Return once the counters are known, or half a second later."""
        for name, work in (
            ("the ledger's writer", self._write),
            ("the end of expired leases", self._reclaim),
            ("the replay of the spool", self._replay),
        ):
            self._chores.append(asyncio.create_task(_Chore(name, work).run(), name=name))
        with suppress(TimeoutError):
            async with asyncio.timeout(_START_SECONDS):
                await self._are_counters_known.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop, and take at most three seconds to move what waits."""
        for chore in self._chores:
            chore.cancel()
        await asyncio.gather(*self._chores, return_exceptions=True)
        self._chores.clear()
        try:
            async with asyncio.timeout(_END_SECONDS):
                if await self._lead():
                    await self._drain.move_all()
                    await self._state.call("DEL", LEASE_KEY)
        except (StoreError, BookError, TimeoutError) as error:
            reason = str(error) or "no time left"
            logger.warning("the last records wait in the state store: %s", reason)

    async def lag(self) -> Lag:
        """Return what waits for the book. Raises StoreError."""
        return await self._drain.lag()

    async def _write(self) -> float:
        leading, missing = await asyncio.gather(self._lead(), counters.missing(self._state))
        if missing:
            await counters.rebuild(self._state, self._book, shards=missing)
            logger.info("the counters of %d shards were told from the book", len(missing))
        self._are_counters_known.set()
        # Last, because it raises where one server of a cluster is away.
        moved = await self._drain.move() if leading else 0
        if moved == PAGE:
            return 0.0
        idle = min(self._pause_seconds * 2, _IDLE_SECONDS)
        self._pause_seconds = _BUSY_SECONDS if moved else idle
        return self._pause_seconds

    async def _lead(self) -> bool:
        """Take or renew the lease; False if another gateway has it.

        Where it cannot be asked for, everybody leads: the other servers of a cluster have records.
        """
        try:
            holder = await self._state.call(
                "SET", LEASE_KEY, self._token, "NX", "GET", "PX", _LEASE_MS
            )
            if holder == self._token:
                await self._state.call("PEXPIRE", LEASE_KEY, _LEASE_MS)
        except StoreUnavailable:
            holder = None
        self._is_leading = holder in (None, self._token)
        return self._is_leading

    async def _reclaim(self) -> float:
        if not self._is_leading:
            return _IDLE_SECONDS
        told = await asyncio.gather(
            *(self._state.run(RECLAIM, shard_keys(shard), ()) for shard in range(SHARDS)),
            return_exceptions=True,
        )
        if ended := sum(count for count in told if isinstance(count, int)):
            logger.warning("%d requests were abandoned by their workers", ended)
        for error in told:
            if isinstance(error, BaseException):
                raise error
        return _RECLAIM_SECONDS

    async def _replay(self) -> float:
        if self._state.is_available:
            await replay(self._state, self._book, self._spool)
        return _REPLAY_SECONDS


class _Chore:
    """Work that is done again and again. `work` returns how many seconds to pause after it."""

    def __init__(self, name: str, work: Callable[[], Awaitable[float]]) -> None:
        self._name = name
        self._work = work
        self._failures = 0

    async def run(self) -> None:
        """Work until it is cancelled."""
        while True:
            # Gathered, so that even an error that nobody thought of ends one round only.
            [outcome] = await asyncio.gather(self._work(), return_exceptions=True)
            await asyncio.sleep(self._after(outcome))

    def _after(self, outcome: float | BaseException) -> float:
        """Log what is new, and return the pause."""
        if not isinstance(outcome, BaseException):
            if self._failures:
                logger.warning("%s works again", self._name)
            self._failures = 0
            return outcome
        expected = isinstance(outcome, StoreError | BookError | OSError)
        if not self._failures or not expected:
            logger.error("%s: %s", self._name, outcome, exc_info=None if expected else outcome)
        self._failures += 1
        return min(_FIRST_RETRY_SECONDS * 2.0 ** min(self._failures, 30), _LAST_RETRY_SECONDS)
