"""How many calls an upstream gets at once, and who is next when it has enough of them."""

from __future__ import annotations

import asyncio
import math
import time
from asyncio import Future
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from adapters.errors import Overloaded

_RETRY_SECONDS = 1.0
_RIVAL_SECONDS = 1.0  # for so long another sender is expected back

_Place = tuple[Future[None], int]  # a call that waits, and the round in which it is its turn


class Crowded(Overloaded):
    """The gateway itself keeps the call back: this says nothing of the upstream's health."""


class Gate:
    """Lets at most `limit` calls through at once, None for any number.

    The others wait for at most `queue_seconds`. Next is a call of whoever has the fewest under
    way; among those they take turns, as in start-time fair queueing: a key with a thousand calls
    gets its share and no more. While several ask, none gets all places: the next to come finds
    one free. When `queue_size` calls wait, the longest queue loses its newest.
    """

    def __init__(
        self,
        name: str,
        *,
        limit: int | None,
        queue_size: int = 1000,
        queue_seconds: float = 10,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._limit = limit
        self._queue_size = queue_size
        self._queue_seconds = queue_seconds
        self._clock = clock
        self._newest = self._before = ("", -math.inf)  # the last two different senders, and when
        self._under_way: Counter[str] = Counter()
        self._queues: dict[str, deque[_Place]] = {}
        self._round = 0  # of the last call whose turn has come
        self.under_way = 0
        self.waiting = 0

    async def enter(self, sender: str) -> Callable[[], None]:
        """Wait for the turn of a call of `sender`; return what ends it, to be called once.

        Raises Crowded if it would take too long.
        """
        if self._limit is None:
            return _nothing
        self._note(sender)
        self._admit()
        if self._has_room(sender):
            self._begin(sender)
        else:
            await self._wait(sender)
        return partial(self._end, sender)

    def _note(self, sender: str) -> None:
        if sender != self._newest[0]:
            self._before = self._newest
        self._newest = sender, self._clock()

    def _has_room(self, sender: str) -> bool:
        """Tell whether there is a place for another call of `sender`."""
        assert self._limit is not None  # noqa: S101 (else nobody asks)
        free = self._limit - self.under_way
        if free != 1 or not 0 < self._under_way[sender] == self.under_way:
            return free > 0
        other = self._before if sender == self._newest[0] else self._newest
        return self._clock() - other[1] > _RIVAL_SECONDS

    async def _wait(self, sender: str) -> None:
        """Return when it is the turn of `sender`, which has begun then. Raises Crowded."""
        self._make_room(sender)
        turn: Future[None] = asyncio.get_running_loop().create_future()
        queue = self._queues.setdefault(sender, deque())
        place = turn, (queue[-1][1] if queue else self._round) + 1
        queue.append(place)
        self.waiting += 1
        try:
            async with asyncio.timeout(self._queue_seconds):
                await turn
        except BaseException as exc:
            if turn.cancelled():
                self._forget(sender, place)
            elif turn.exception() is None:  # its turn had come, but it has left
                self._end(sender)
            if isinstance(exc, TimeoutError):
                raise self._overloaded() from None
            raise

    def _begin(self, sender: str) -> None:
        self._under_way[sender] += 1
        self.under_way += 1

    def _end(self, sender: str) -> None:
        """End a call of `sender`."""
        self.under_way -= 1
        self._under_way[sender] -= 1
        if not self._under_way[sender]:
            del self._under_way[sender]
        self._admit()

    def _admit(self) -> None:
        """Begin those who wait and for whom there is room."""
        while self._queues:
            follower = min(
                self._queues, key=lambda key: (self._under_way[key], self._queues[key][0][1])
            )
            turn, its_round = place = self._queues[follower][0]
            if turn.cancelled():  # and its caller has not run since
                self._forget(follower, place)
                continue
            if not self._has_room(follower):
                break
            self._round = its_round
            self._forget(follower, place)
            self._begin(follower)
            turn.set_result(None)

    def _forget(self, sender: str, place: _Place) -> None:
        """Take a call out of its queue, if it is in one."""
        queue = self._queues.get(sender)
        if queue and place in queue:
            queue.remove(place)
            self.waiting -= 1
            if not queue:
                del self._queues[sender]

    def _make_room(self, sender: str) -> None:
        """Turn someone away if all places are taken. Raises Crowded if it is `sender`."""
        if self.waiting < self._queue_size:
            return
        longest = max(self._queues, key=lambda key: len(self._queues[key]), default=sender)
        if len(self._queues.get(longest, ())) <= len(self._queues.get(sender, ())) + 1:
            raise self._overloaded()
        turn, _ = place = self._queues[longest][-1]
        self._forget(longest, place)
        if not turn.cancelled():
            turn.set_exception(self._overloaded())

    def _overloaded(self) -> Crowded:
        return Crowded(
            f"upstream {self._name!r} has more to do than it may be given.",
            status=503,
            retry_after_seconds=_RETRY_SECONDS,
        )


def _nothing() -> None:
    """End a call that was not counted."""
