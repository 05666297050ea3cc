"""What was found for one exchange before it was admitted: a tape for each part of its job."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from types import TracebackType
from typing import Literal, Self

from gateway.amounts import Usage
from gateway.tapes import Direct, Part, Tape, close_all

CacheStatus = Literal["hit", "miss", "shared", "bypass"]
_NOTHING = Fraction(0)


@dataclass(slots=True, kw_only=True)
class Found:
    """The tapes of an exchange. Entered as a context, they are closed if it is left in an error.

    `charge`: the share that a free part costs. `age_seconds`: of the oldest part, if all were kept.
    `is_unchanged`: the client has this answer already.
    """

    tapes: Sequence[Tape]
    status: CacheStatus = "bypass"
    charge: Fraction = _NOTHING
    age_seconds: int | None = None
    etag: str | None = None
    is_unchanged: bool = False

    @classmethod
    def bypass(cls, parts: Sequence[Part]) -> Self:
        """Return parts that are made for one exchange alone, and not kept."""
        return cls(tapes=[Direct(part) for part in parts])

    @property
    def is_free(self) -> bool:
        """Whether no upstream is asked on this exchange's account."""
        return self.status in ("hit", "shared") and all(tape.is_free for tape in self.tapes)

    def charged(self, usage: Usage) -> Usage:
        """Return what of `usage` is paid for: all of what was made for it, a share of the rest."""
        free = sum(tape.is_free for tape in self.tapes) if self.status != "bypass" else 0
        if not free or self.charge == 1:
            return usage
        # In whole numbers: a Fraction for each amount would cost 100 µs.
        whole = len(self.tapes) * self.charge.denominator
        paid = whole - free * (self.charge.denominator - self.charge.numerator)

        def share(amount: int) -> int:
            return -(-amount * paid // whole)

        return Usage(
            input_tokens=share(usage.input_tokens),
            output_tokens=share(usage.output_tokens),
            images=share(usage.images),
            pixels=share(usage.pixels),
            characters=share(usage.characters),
            audio_ms=share(usage.audio_ms),
            estimated=usage.estimated,
        )

    def headers(self) -> list[tuple[str, str]]:
        """Return what the client is told."""
        pairs: list[tuple[str, str]] = [("x-dragoman-cache", self.status)]
        if self.age_seconds is not None:
            pairs.append(("age", str(self.age_seconds)))
        if self.etag:
            pairs.append(("etag", self.etag))
        return pairs

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None or self.is_unchanged:
            await close_all(self.tapes)
