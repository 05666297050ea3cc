"""Answers kept to be given again, byte for byte, as the hosted service did."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace

import msgspec

from adapters.local.registry import Whole


@dataclass(frozen=True, slots=True)
class ReplayLimits:
    """How much is kept; the answer that was not asked for longest goes first."""

    answers: int = 256
    size_bytes: int = 8 << 20


def key(path: str, body: bytes) -> bytes:
    """Return the key of a request: its path and its payload, `options` left out."""
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        payload = None
    if isinstance(payload, dict):
        payload.pop("options", None)
        body = msgspec.json.encode(payload, order="deterministic")
    return hashlib.sha256(path.encode() + b"\0" + body).digest()


class Replay:
    """A bounded memory of whole answers, whichever way they were first given."""

    def __init__(self, limits: ReplayLimits | None = None) -> None:
        self._limits = limits or ReplayLimits()
        self._answers: OrderedDict[bytes, Whole] = OrderedDict()
        self._size_bytes = 0

    def get(self, key: bytes) -> Whole | None:
        """Return the answer marked as cached; its other headers are the first run's."""
        answer = self._answers.get(key)
        if answer is None:
            return None
        self._answers.move_to_end(key)
        return replace(answer, headers={**answer.headers, "x-compute-type": "cache"})

    def put(self, key: bytes, answer: Whole) -> None:
        """Keep `answer`, unless it alone is larger than everything that may be kept."""
        if len(answer.body) > self._limits.size_bytes:
            return
        if (replaced := self._answers.pop(key, None)) is not None:
            self._size_bytes -= len(replaced.body)
        self._answers[key] = answer
        self._size_bytes += len(answer.body)
        while self._is_over():
            _, oldest = self._answers.popitem(last=False)
            self._size_bytes -= len(oldest.body)

    def _is_over(self) -> bool:
        return (
            len(self._answers) > self._limits.answers or self._size_bytes > self._limits.size_bytes
        )
