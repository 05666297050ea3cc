"""What the parent process does for its workers: it keeps the book open, and the ledger flowing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from gateway import config
from gateway.book import Book
from gateway.config import Settings
from gateway.keys import FirstRun, first_run, load_pepper
from gateway.spool import FOLDER
from gateway.store import Store
from gateway.store_check import check_spelling, examine
from gateway.writer import Writer

logger = logging.getLogger(__name__)

_STATE_SECONDS = 5.0  # no client waits for what the parent asks


@asynccontextmanager
async def housekeeping(
    settings: Settings, data_dir: Path, state_url: str
) -> AsyncIterator[FirstRun | None]:
    """Bring the book up to date and the counters into the state store, then write the ledger.

    Yields the keys of the very first run. Raises ConfigError, BookError, BadPepper, OSError.
    """
    await check_spelling(settings.store)
    async with AsyncExitStack() as closing:
        book = await Book.open(settings.store.book or data_dir)
        closing.push_async_callback(book.aclose)
        made = await first_run(book, load_pepper(data_dir))
        state = Store(state_url, timeout_seconds=_STATE_SECONDS)
        closing.push_async_callback(state.aclose)
        warning = asyncio.create_task(_warn(settings.store), name="store check")
        closing.callback(warning.cancel)
        await closing.enter_async_context(Writer(state, book, data_dir / FOLDER))
        yield made


async def _warn(stores: config.Store) -> None:
    """Tell the operator of stores that are not set up for what they hold."""
    for store, is_well, detail in await examine(stores):
        if not is_well:
            logger.warning("the %s %s", store, detail)
