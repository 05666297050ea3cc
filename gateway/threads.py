"""Blocking work in a few threads of its own: their number bounds the memory and cores it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Threads:
    """At most `count` pieces of work at once; the others wait for their turn.

    Work cannot be stopped once it has begun. Its thread stays taken until its end, though the
    caller may be gone: a semaphore around `asyncio.to_thread` would let the next one begin. What
    still waits when its caller goes never begins.
    """

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="work")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns. Raises what it raises."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, partial(work, *args, **kwargs))
