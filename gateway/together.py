"""Several things done at once, all or none."""

from __future__ import annotations

import asyncio
from asyncio import Task
from collections.abc import Coroutine, Sequence
from typing import Any


async def all_of(steps: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Take all steps at once. If one fails, the others are ended before its error is raised.

    No `TaskGroup`: before Python 3.13 one that fails leaves its caller counted as cancelled, and
    then the caller's timeouts end in CancelledError with Python 3.11.2.
    """
    if len(steps) == 1:  # as most have: no task of its own
        await steps[0]
        return
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        errors = [error for task in tasks if task in done and (error := task.exception())]
    finally:
        await _end(tasks)
    if errors:
        raise errors[0]


async def _end(tasks: Sequence[Task[None]]) -> None:
    under_way = [task for task in tasks if not task.done()]
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)
