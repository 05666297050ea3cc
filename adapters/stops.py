"""Stop sequences, cut where OpenAI cuts them: before their first character.

Native servers match a stop only at a token's end and keep its text in the answer, so the cut
is made here, over the text, wherever tokens and chunks happen to break.
"""

from __future__ import annotations


class StopCutter:
    """Passes text on until one of `stops` begins in it.

    Text that might still turn out to begin a stop is held back; `release` gives it up when
    the answer ends without one.
    """

    __slots__ = ("_held", "_longest", "_stops", "stopped")

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._longest = max(map(len, stops), default=0)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Return the text that is certain to belong to the answer. `stopped` turns true once."""
        if not self._stops:
            return text
        if self.stopped:
            return ""
        text = self._held + text
        cut = min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=-1)
        if cut >= 0:
            self.stopped, self._held = True, ""
            return text[:cut]
        keep = len(text) - self._doubtful(text)
        self._held = text[keep:]
        return text[:keep]

    def release(self) -> str:
        """Return what was held back: the answer is over."""
        text, self._held = self._held, ""
        return text

    def _doubtful(self, text: str) -> int:
        """Length of the longest end of `text` that is a beginning of some stop."""
        for size in range(min(self._longest - 1, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0
