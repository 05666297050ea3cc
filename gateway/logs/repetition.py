"""What is said again and again is said a few times, and then how often."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

WINDOW_SECONDS = 10.0
MOST_IN_WINDOW = 5
_MOST_REMEMBERED = 512

Tell = Callable[["Held"], None]


@dataclass(slots=True)
class Held:
    """What is held back of one place of the code: `count` records, which this makes."""

    logger: str
    level: int
    template: str
    line: int
    began: float
    said: int = 0
    count: int = 0
    timer: threading.Timer | None = None


class Repetition:
    """Lets one place of the code say the same five times in ten seconds.

    At their end `tell` hears of what was held back, in whatever thread. A critical record never
    is: it may be all that is left of something.
    """

    def __init__(
        self,
        tell: Tell,
        *,
        window_seconds: float = WINDOW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tell = tell
        self._window_seconds = window_seconds
        self._clock = clock
        self._places: OrderedDict[tuple[str, str, int], Held] = OrderedDict()
        self._lock = threading.RLock()

    def admits(self, record: logging.LogRecord) -> bool:
        """Tell whether `record` is to be said."""
        if record.levelno >= logging.CRITICAL:
            return True
        with self._lock:
            held = self._held(record)
            if held.said < MOST_IN_WINDOW:
                held.said += 1
                return True
            held.count += 1
            if held.timer is None:
                left_seconds = held.began + self._window_seconds - self._clock()
                held.timer = threading.Timer(max(0.0, left_seconds), self._sum_up, (held,))
                held.timer.daemon = True
                held.timer.start()
            return False

    def close(self) -> None:
        """Tell what is held back."""
        with self._lock:
            for held in self._places.values():
                self._sum_up(held)
            self._places.clear()

    def _held(self, record: logging.LogRecord) -> Held:
        template = str(record.msg)  # no more of the record: its traceback would keep all alive
        place = record.name, template, record.lineno
        now = self._clock()
        held = self._places.pop(place, None)
        if held is not None and now - held.began >= self._window_seconds:
            self._sum_up(held)
            held = None
        if held is None:
            held = Held(record.name, record.levelno, template, record.lineno, began=now)
        self._places[place] = held
        if len(self._places) > _MOST_REMEMBERED:
            self._sum_up(self._places.popitem(last=False)[1])
        return held

    def _sum_up(self, held: Held) -> None:
        with self._lock:
            if held.timer is not None:
                held.timer.cancel()
            held.timer = None
            if held.count:
                self._tell(held)
            held.count = 0
