"""Jobs whose results are wanted one after the other, begun a little before their turn."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from itertools import islice
from typing import Any, Generic, Self, TypeVar

T = TypeVar("T")

Job = Callable[[], Coroutine[Any, Any, T]]


class LookAhead(Generic[T]):
    """The results of `jobs`, in order. At most `depth` are under way, or done and not yet taken.

    The first ones begin at once. Whoever made it closes it.
    """

    def __init__(self, jobs: Iterable[Job[T]], *, depth: int) -> None:
        self._jobs = iter(jobs)
        self._begun = deque(asyncio.create_task(job()) for job in islice(self._jobs, depth))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """Return the next result. Raises what the job raised."""
        if not self._begun:
            raise StopAsyncIteration
        result = await self._begun[0]
        self._begun.popleft()
        self._begun.extend(asyncio.create_task(job()) for job in islice(self._jobs, 1))
        return result

    async def aclose(self) -> None:
        """Cancel what is under way, and wait for its end."""
        for task in self._begun:
            task.cancel()
        await asyncio.gather(*self._begun, return_exceptions=True)
        self._begun.clear()
