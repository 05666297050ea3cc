"""Clients that come back before the time that they were told: held until it is over, not fed."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

from gateway.errors import GatewayError, UpstreamFailed

_HELD_FROM = 2  # requests that came too early


@dataclass(slots=True)
class _Refusal:
    """A 503. `returns`: how many requests came before `until`, since the last answer."""

    until: float = 0.0
    returns: int = 0


class WaitingRoom:
    """Holds requests of a key for a model within the `retry-after` of an upstream's last 503 there.

    huggingface.js repeats a 503 at once and without end, huggingface_hub 0.23 to 0.28 every
    second. The first that comes too early goes on, as two requests of one key may have nothing to
    do with each other. Those after it are held for `longest_seconds` at most, have nothing
    reserved meanwhile, and then go their normal way; of one key no more than `most_held` are held,
    any others go on at once. What is remembered is this worker's own, of the last `most_known`
    keys and models: clients that hurry so keep their connections, and with them their worker.
    """

    def __init__(
        self,
        *,
        longest_seconds: float = 2.0,
        most_held: int = 100,
        most_known: int = 10_000,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._longest_seconds = longest_seconds
        self._most_held = most_held
        self._most_known = most_known
        self._clock = clock
        self._refused: OrderedDict[tuple[str, str], _Refusal] = OrderedDict()
        self._held: Counter[str] = Counter()

    async def enter(self, key_id: str, model: str) -> None:
        """Return when the request may go on: at once, but for those that come too early."""
        refusal = self._refused.get((key_id, model)) if self._refused else None
        if refusal is None or self._held[key_id] >= self._most_held:
            return
        seconds = min(refusal.until - self._clock(), self._longest_seconds)
        if seconds <= 0:
            return
        refusal.returns += 1
        if refusal.returns < _HELD_FROM:
            return
        self._held[key_id] += 1
        try:
            await asyncio.sleep(seconds)
        finally:
            self._held[key_id] -= 1
            if not self._held[key_id]:
                del self._held[key_id]

    def note(self, key_id: str, model: str, error: GatewayError | None) -> None:
        """Remember until when the client is to stay away; an answer ends that.

        What the gateway itself cannot do for a moment is none of it: there is nothing to be spared.
        """
        if error is None:
            if self._refused:
                self._refused.pop((key_id, model), None)
            return
        seconds = error.headers.get("retry-after", "")
        is_unavailable = error.status == HTTPStatus.SERVICE_UNAVAILABLE
        if is_unavailable and isinstance(error, UpstreamFailed) and seconds.isdecimal():
            refusal = self._refused.setdefault((key_id, model), _Refusal())
            refusal.until = self._clock() + int(seconds)
            self._refused.move_to_end((key_id, model))
            if len(self._refused) > self._most_known:
                self._refused.popitem(last=False)
