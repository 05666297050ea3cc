"""The templates and tokenizers of a catalogue, loaded behind a gateway that already answers."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Generic, Self, TypeVar

from gateway.templates import TemplateUnavailable

T = TypeVar("T")

logger = logging.getLogger(__name__)

# `transformers` fills its modules lazily: two threads that import it at once see half of them.
_ONE_AT_A_TIME = threading.Lock()


class TemplateShelf(Generic[T]):
    """Loads the templates (or bare tokenizers) of `sources` one at a time, and holds them.

    Use it as an asynchronous context manager: entering starts to load. A load that failed is
    tried again after `retry_seconds`. The thread is a daemon, so that a slow download does not
    hold up the end of the process.
    """

    def __init__(
        self,
        sources: Iterable[str],
        *,
        load: Callable[[str], T],
        wait_seconds: float = 30.0,
        retry_seconds: float = 60.0,
    ) -> None:
        self._slots: dict[str, _Slot[T]] = {source: _Slot() for source in sources}
        self._load = load
        self._wait_seconds = wait_seconds
        self._retry_seconds = retry_seconds
        self._wanted: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._open = False

    async def __aenter__(self) -> Self:
        self._open = True
        loop = asyncio.get_running_loop()
        for source in self._slots:
            self._wanted.put(source)
        thread = threading.Thread(
            target=self._load_all, args=(loop,), name="template-loader", daemon=True
        )
        thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open = False
        self._wanted.put(None)
        for slot in self._slots.values():
            if slot.retry:
                slot.retry.cancel()

    @property
    def pending(self) -> tuple[str, ...]:
        """The sources that are being loaded, or wait for their turn."""
        return tuple(source for source, slot in self._slots.items() if not slot.tried.is_set())

    @property
    def failed(self) -> Mapping[str, str]:
        """The sources that could not be loaded, each with the reason."""
        return {source: slot.reason for source, slot in self._slots.items() if slot.reason}

    async def get(self, source: str) -> T:
        """Return a template; wait for a load that is under way.

        Raises TemplateUnavailable when it failed, or takes longer than `wait_seconds`.
        """
        slot = self._slots.get(source)
        if slot is None:
            raise TemplateUnavailable(f"No model of the catalogue names the tokenizer {source!r}.")
        if slot.template:
            return slot.template
        try:
            await asyncio.wait_for(slot.tried.wait(), self._wait_seconds)
        except TimeoutError:
            raise TemplateUnavailable(
                f"The tokenizer {source!r} is still being loaded.",
                retry_after_seconds=self._wait_seconds,
            ) from None
        if slot.template is None:
            raise TemplateUnavailable(slot.reason, retry_after_seconds=self._retry_seconds)
        return slot.template

    def loaded(self, source: str) -> T | None:
        """Return a template if it is there now."""
        slot = self._slots.get(source)
        return slot.template if slot else None

    def _load_all(self, loop: asyncio.AbstractEventLoop) -> None:
        """Load what is wanted until None is; runs in the shelf's own thread."""
        while (source := self._wanted.get()) is not None and self._open:
            template, reason = None, ""
            try:
                with _ONE_AT_A_TIME:
                    template = self._load(source)
            except TemplateUnavailable as error:
                reason = error.message
            except Exception as error:  # the edge of this thread, which must outlive any fault
                logger.error("cannot load the tokenizer %r", source, exc_info=error)
                reason = f"The tokenizer {source!r} cannot be loaded: {type(error).__name__}."
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._put, source, template, reason)

    def _put(self, source: str, template: T | None, reason: str) -> None:
        slot = self._slots[source]
        slot.template, slot.reason = template, reason
        slot.tried.set()
        if reason and self._open:
            loop = asyncio.get_running_loop()
            slot.retry = loop.call_later(self._retry_seconds, self._try_again, source)

    def _try_again(self, source: str) -> None:
        self._slots[source].tried.clear()
        self._wanted.put(source)


class _Slot(Generic[T]):
    """One template's place. `tried` is set while no load is waited for."""

    __slots__ = ("reason", "retry", "template", "tried")

    def __init__(self) -> None:
        self.template: T | None = None
        self.reason = ""
        self.retry: asyncio.TimerHandle | None = None
        self.tried = asyncio.Event()
