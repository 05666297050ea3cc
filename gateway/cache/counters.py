"""What the workers count of the cache's use, added up in the cache store for the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Self

from gateway.cache.inventory import TOTALS_KEY
from gateway.store import Store, StoreError

_PAUSE_SECONDS = 2.0


@dataclass(slots=True)
class Counts:
    """Since this worker began. Exchanges: `hits` … `bypassed`; answers: `stored` … `corrupt`.

    `errors`: how often the store did not serve.
    """

    hits: int = 0
    misses: int = 0
    shared: int = 0
    bypassed: int = 0
    stored: int = 0
    too_large: int = 0
    corrupt: int = 0
    errors: int = 0


class Totals:
    """Tells the store, every two seconds while it is entered, by how much the counts have grown."""

    def __init__(self, store: Store, count: Callable[[], Counts]) -> None:
        """`count` returns what there is to tell by now."""
        self._store = store
        self._count = count
        self._told = asdict(Counts())

    async def __aenter__(self) -> Self:
        self._telling = asyncio.create_task(self._tell_on(), name="cache totals")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._telling.cancel()
        await asyncio.gather(self._telling, return_exceptions=True)
        await self._tell()

    async def _tell_on(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE_SECONDS)
            await self._tell()

    async def _tell(self) -> None:
        """Tell what is new. What does not arrive is told the next time."""
        counted = asdict(self._count())
        grown = {name: count - self._told[name] for name, count in counted.items()}
        grown = {name: by for name, by in grown.items() if by}
        calls = [self._store.call("HINCRBY", TOTALS_KEY, name, by) for name, by in grown.items()]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for name, answer in zip(grown, answers, strict=True):
            if not isinstance(answer, StoreError):
                self._told[name] = counted[name]
