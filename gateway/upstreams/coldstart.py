"""Models that are loading: one request asks the upstream, all others wait for what it learns."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Protocol, TypeVar

from adapters.errors import ModelLoading
from gateway.upstreams.outlook import Outlook

_VERDICT_SECONDS = 2.0  # a server that is still loading says so at once
_GLANCE_SECONDS = 0.25  # between two looks at what another worker has learnt

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Sight:
    """What the workers know of a model. `is_ours`: it is this one's turn to ask the upstream.

    `outlook`: the estimate that counts and what is left of it, in seconds.
    """

    is_ours: bool = True
    is_loaded: bool = False
    outlook: tuple[float, float] | None = None


class Watch(Protocol):
    """What workers let each other know of one model. Nothing here raises or takes long."""

    async def look(self, outlook: Outlook, *, is_news: bool) -> Sight:
        """Return what is known, and take the turn if nobody has it.

        `is_news`: the upstream has just said here that it is loading, which counts for all.
        """

    def leave(self, *, is_loaded: bool) -> None:
        """Let go of the turn, if it is ours; tell the others if the model is loaded."""


class Alone:
    """The watch of a worker that knows of no others: it is always its turn."""

    async def look(self, outlook: Outlook, *, is_news: bool) -> Sight:
        """Return that it is ours."""
        return Sight()

    def leave(self, *, is_loaded: bool) -> None:
        """Tell nobody."""


Watches = Callable[[str], Watch]
"""Return the watch over a model, given what tells it from all others anywhere."""


def alone(_: str) -> Watch:
    """Return a watch that is not shared."""
    return Alone()


class ColdStart:
    """One model at one upstream. `loading`: its last answer was that it is not loaded yet.

    `is_held`: the upstream holds a request until it has started, rather than refuse it, so that
    silence tells nothing. `on_waited` hears for how many seconds each caller has waited.
    """

    def __init__(
        self,
        watch: Watch | None = None,
        *,
        is_held: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.loading = False
        self.on_waited: Callable[[float], None] = lambda seconds: None
        self._watch = watch or Alone()
        self._is_held = is_held
        self._clock = clock
        self._outlook = Outlook(clock)
        self._is_news = False
        self._asked = False
        self._over = asyncio.Event()  # nobody asks, or there is nothing to be asked

    @property
    def may_be_asked(self) -> bool:
        """Whether a request should come here rather than go elsewhere.

        While it loads and nobody waits for it, one may try when it is expected.
        """
        return not self.loading or (self._outlook.is_due and not self._asked)

    async def when_loaded(self, attempt: Callable[[], Awaitable[T]], *, wait_seconds: float) -> T:
        """Return what `attempt` returns, tried again while it raises ModelLoading.

        While the model loads only one of the callers attempts anything; should it leave,
        another takes its place. Raises ModelLoading when `wait_seconds` are over, and at once
        when the model is expected later than that.
        """
        deadline = self._clock() + wait_seconds
        while True:
            if not (self.loading and wait_seconds):
                try:
                    return await self._noted(attempt)
                except ModelLoading:
                    if not wait_seconds or self._is_beyond(deadline):
                        raise
            async with self._turn(deadline) as is_asking:
                if is_asking:
                    return await self._ask(attempt, deadline)

    async def _noted(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Attempt, and note what it tells."""
        try:
            result = await attempt()
        except ModelLoading as exc:
            self._outlook.hear(exc.retry_after_seconds or 0)
            self.loading = self._is_news = True
            self._over.clear()
            exc.retry_after_seconds = self._outlook.retry_after_seconds
            raise
        self._release()
        return result

    @asynccontextmanager
    async def _turn(self, deadline: float) -> AsyncIterator[bool]:
        """Wait until it is this caller's turn to ask (True), or the model is loaded (False)."""
        with self._timed():
            while self._asked and self.loading:
                await self._wait(deadline)
            if not self.loading:
                yield False
                return
            self._asked = True
            self._over.clear()
            try:
                yield True
            finally:
                self._asked = False
                self._over.set()
                self._watch.leave(is_loaded=False)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = self._clock()
        try:
            yield
        finally:
            self.on_waited(self._clock() - began)

    async def _wait(self, deadline: float) -> None:
        """Wait for the end of whoever asks. Raises ModelLoading if the model is later."""
        if self._is_beyond(deadline):
            raise self._still_loading()
        try:
            async with asyncio.timeout(deadline - self._clock()):
                await self._over.wait()
        except TimeoutError:
            raise self._still_loading() from None

    async def _ask(self, attempt: Callable[[], Awaitable[T]], deadline: float) -> T:
        """Attempt for all, in turn with other workers. Raises ModelLoading as `when_loaded`."""
        while True:
            pause = await self._look() if self.loading else 0.0
            if self.loading and (pause > 0 or self._clock() >= deadline):
                if self._is_beyond(deadline):
                    raise self._still_loading()
                await self._pause(min(pause, deadline - self._clock()))
                continue
            try:
                return await self._attempted(attempt)
            except ModelLoading:
                if self._is_beyond(deadline):
                    raise

    async def _look(self) -> float:
        """Learn what others know. Returns how many seconds are to pass, 0 if it may be asked.

        Whoever has the turn looks as often as the others: one of them may find the model loaded.
        """
        sight = await self._watch.look(self._outlook, is_news=self._is_news)
        self._is_news = False
        if sight.outlook:
            self._outlook.adopt(*sight.outlook)
        if sight.is_loaded:
            self._let_in()
            return 0.0
        return (
            min(self._outlook.pause_seconds, _GLANCE_SECONDS) if sight.is_ours else _GLANCE_SECONDS
        )

    async def _pause(self, seconds: float) -> None:
        """Let so much time pass, unless someone else finds the model loaded."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()

    async def _attempted(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Attempt. An answer that takes its time is being made: the others may come."""
        if self._is_held:
            return await self._noted(attempt)
        loop = asyncio.get_running_loop()
        verdict = loop.call_later(_VERDICT_SECONDS, self._release)
        try:
            return await self._noted(attempt)
        finally:
            verdict.cancel()

    def _release(self) -> None:
        """Let all come, and tell the other workers, if that is news."""
        if self.loading:
            self._let_in()
            self._watch.leave(is_loaded=True)

    def _let_in(self) -> None:
        self.loading = False
        self._outlook.forget()
        self._over.set()

    def _is_beyond(self, deadline: float) -> bool:
        """Tell whether the model is expected after the deadline, or that is over."""
        return max(self._outlook.remaining_seconds, 0) >= deadline - self._clock()

    def _still_loading(self) -> ModelLoading:
        return ModelLoading(
            "The model is still loading.",
            status=503,
            retry_after_seconds=self._outlook.retry_after_seconds,
        )
