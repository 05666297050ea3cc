"""The watch that all workers of all gateways keep over a model that is loading: one of them asks.

It is kept in the cache store, not in the state store: it may be lost at any time, at the price of
a question too many, and the cache store is asked with 50 ms of patience. One who does not have the
turn looks instead of being told: so it learns as well that the holder has died.
"""

from __future__ import annotations

import asyncio
import secrets
from asyncio import Future, TimerHandle
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from gateway.store import Script, Store, StoreError
from gateway.upstreams.coldstart import Sight, Watches
from gateway.upstreams.outlook import Outlook

_TURN_MS = 3000  # a holder that has died is followed by another after so long
_RENEWAL_SECONDS = 1.0
_KNOWN_MS = 60_000  # how long an estimate counts that nobody asks for
_LOADED_MS = 5000  # long enough for all who look
_PATIENCE_SECONDS = 0.05
_FOLDER = Path(__file__).parent / "lua"


def _script(name: str) -> Script:
    return Script((_FOLDER / f"{name}.lua").read_text(encoding="utf-8"))


_LOOK, _LEAVE = map(_script, ("look", "leave"))


def shared_in(store: Store, *, patience_seconds: float = _PATIENCE_SECONDS) -> Watches:
    """Return what makes the watches of this worker."""
    worker = secrets.token_hex(8)
    return partial(SharedWatch, store, token=worker, patience_seconds=patience_seconds)


class SharedWatch:
    """One model's watch, as one worker sees it. Without the store, every worker is on its own.

    The turn is prolonged until `leave`. `token`: tells this worker from all others.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        *,
        token: str,
        patience_seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        """The store is closed by its owner."""
        digest = sha256(name.encode()).hexdigest()[:32]
        self._keys = f"loading:{{{digest}}}:turn", f"loading:{{{digest}}}"
        self._store = store
        self._token = token
        self._patience_seconds = patience_seconds
        self._renewal: TimerHandle | None = None

    async def look(self, outlook: Outlook, *, is_news: bool) -> Sight:
        """Return what is known, and take the turn if nobody has it. One trip."""
        try:
            async with asyncio.timeout(self._patience_seconds):
                reply = await self._look(outlook, is_news)
        except (StoreError, TimeoutError):
            return Sight()
        match reply:
            case [b"loaded"]:
                self._stop_renewal()
                return Sight(is_ours=False, is_loaded=True)
            case [is_ours, estimate_ms, remaining_ms]:
                self._renew_later(outlook, is_ours=bool(is_ours))
                known = estimate_ms / 1000, remaining_ms / 1000
                return Sight(is_ours=bool(is_ours), outlook=known)
        return Sight()

    def leave(self, *, is_loaded: bool) -> None:
        """Let go of the turn; tell the others if the model is loaded. Waits for nothing."""
        self._stop_renewal()
        until = _LOADED_MS if is_loaded else 0
        self._store.run(_LEAVE, self._keys, (self._token, until)).add_done_callback(_forget)

    def _look(self, outlook: Outlook, is_news: bool) -> Future[Any]:
        estimate_ms = int(outlook.estimate_seconds * 1000)
        remaining_ms = int(outlook.remaining_seconds * 1000)
        arguments = (self._token, _TURN_MS, _KNOWN_MS, int(is_news), estimate_ms, remaining_ms)
        return self._store.run(_LOOK, self._keys, arguments)

    def _renew_later(self, outlook: Outlook, *, is_ours: bool) -> None:
        """Look again soon for the turn's sake, while whoever has it pauses or is answered."""
        self._stop_renewal()
        if is_ours:
            loop = asyncio.get_running_loop()
            self._renewal = loop.call_later(_RENEWAL_SECONDS, self._renew, outlook)

    def _renew(self, outlook: Outlook) -> None:
        self._look(outlook, is_news=False).add_done_callback(_forget)
        self._renew_later(outlook, is_ours=True)

    def _stop_renewal(self) -> None:
        if self._renewal:
            self._renewal.cancel()
            self._renewal = None


def _forget(answer: Future[Any]) -> None:
    """Let a call have failed: the turn runs out by itself."""
    if not answer.cancelled():
        answer.exception()
