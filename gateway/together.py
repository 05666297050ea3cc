"""Several things done at once, all or none."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any


async def all_of(steps: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Take all steps at once. If one fails, the others are ended before its error is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
