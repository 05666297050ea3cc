"""A llama.cpp model with a few slots: generations run in its threads, others wait their turn."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from adapters.local.decoding import Decoder
from adapters.local.generation import Generation
from adapters.local.problems import Overloaded
from adapters.local.validation import Job
from adapters.local.vocabulary import Vocabulary

if TYPE_CHECKING:
    from adapters.local.llama import Llama

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading a model gives."""

    llama: Llama
    vocabulary: Vocabulary


class Engine:
    """`slots` generations at a time, `max_requests` running or waiting, in order of arrival."""

    def __init__(self, load: Callable[[], Loaded], *, slots: int, max_requests: int) -> None:
        self._load = load
        self._max_requests = max_requests
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix="llama")
        self._generations: set[Generation] = set()
        self._loaded: Loaded | None = None

    @property
    def loaded(self) -> Loaded:
        """The model and its vocabulary. Raises RuntimeError before `load` and after `close`."""
        if self._loaded is None:
            raise RuntimeError("the model is not loaded")
        return self._loaded

    def load(self) -> None:
        """Load the model. Blocks."""
        self._loaded = self._load()

    def start(self, job: Job) -> Generation:
        """Begin `job` as soon as a slot is free. Raises Overloaded. The model must be loaded."""
        if len(self._generations) >= self._max_requests:
            raise Overloaded
        decoder = Decoder(
            self.loaded.vocabulary,
            max_new_tokens=job.max_new_tokens,
            stop=job.stop,
            top_n_tokens=job.top_n_tokens,
        )
        generation = Generation(job, decoder)
        self._generations.add(generation)
        future = self._threads.submit(generation.run, self.loaded.llama)
        future.add_done_callback(lambda done: self._retire(generation, done))
        return generation

    def close(self) -> None:
        """Stop every generation, waiting ones too, and free the model. Blocks. Idempotent."""
        for generation in tuple(self._generations):
            generation.cancel()
        self._threads.shutdown(wait=True)
        self._loaded = None

    def _retire(self, generation: Generation, future: Future[None]) -> None:
        self._generations.discard(generation)
        if error := future.exception():
            _LOGGER.error("a generation failed: %r", error)
