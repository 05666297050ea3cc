"""One run of the model: computed in a thread, read on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from adapters.local.decoding import Decoder, Step
from adapters.local.problems import (
    GenerationFailed,
    IncompleteGeneration,
    Invalid,
    Problem,
)
from adapters.local.validation import Job

if TYPE_CHECKING:
    from adapters.local.llama import Chunk, Llama

_GRAMMAR_MARK = "~"  # no free text starts with it


class Generation:
    """The steps of one `job`. `run` belongs to a thread, everything else to the event loop."""

    def __init__(self, job: Job, decoder: Decoder) -> None:
        self.job = job
        self.queued_at = time.perf_counter()
        self.started_at = self.queued_at
        self._decoder = decoder
        self._cancelled = False
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Step | Problem] = asyncio.Queue()

    def cancel(self) -> None:
        """Stop at the next token, or between two batches of the prompt. Idempotent."""
        self._cancelled = True

    async def steps(self, *, silence_seconds: float | None = None) -> AsyncIterator[Step | None]:
        """Yield each step up to the one with a finish reason, and None after each silence.

        Raises Invalid, GenerationFailed or IncompleteGeneration.
        """
        while True:
            try:
                async with asyncio.timeout(silence_seconds):
                    item = await self._items.get()
            except TimeoutError:
                yield None
                continue
            if isinstance(item, Problem):
                raise item
            yield item
            if item.finish_reason is not None:
                return

    def run(self, llama: Llama) -> None:
        """Compute on a slot of `llama`. Blocks until the end, a failure or `cancel`."""
        try:
            self._compute(llama)
        finally:
            if not self._decoder.finished:
                self._post(IncompleteGeneration())

    def _compute(self, llama: Llama) -> None:
        if self._cancelled:
            return
        self.started_at = time.perf_counter()
        grammar = self.job.grammar
        if grammar and not llama.accepts(grammar.source(mark=_GRAMMAR_MARK), mark=_GRAMMAR_MARK):
            self._post(Invalid("grammar is not valid: it cannot be compiled"))
            return
        llama.stream(self.job, self._receive)

    def _receive(self, chunk: Chunk) -> bool:
        """Take one chunk of the engine; True stops it."""
        if self._cancelled:
            return True
        try:
            for step in self._decoder.feed(chunk):
                self._post(step)
        except GenerationFailed as failure:
            self._post(failure)
            self._cancelled = True
        return self._cancelled or self._decoder.finished

    def _post(self, item: Step | Problem) -> None:
        self._loop.call_soon_threadsafe(self._items.put_nowait, item)
