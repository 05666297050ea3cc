"""What use costs: in whole nano-USD, so that a month's sum is exact."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from gateway.amounts import Usage
from gateway.limits import NANO_USD

_MILLION = 1_000_000
_MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """One model's prices in nano-USD: per million tokens and characters, per image, per minute."""

    input_tokens: int = 0
    output_tokens: int = 0
    characters: int = 0
    image: int = 0
    audio_minute: int = 0

    def nano_usd(self, usage: Usage) -> int:
        """Return what `usage` costs, rounded half up once for the whole."""
        per_million = (
            usage.input_tokens * self.input_tokens
            + usage.output_tokens * self.output_tokens
            + usage.characters * self.characters
        )
        total = (
            per_million * _MINUTE_MS
            + usage.images * self.image * _MILLION * _MINUTE_MS
            + usage.audio_ms * self.audio_minute * _MILLION
        )
        return (total + _MILLION * _MINUTE_MS // 2) // (_MILLION * _MINUTE_MS)


def nano(usd: float) -> int:
    """Return an amount as it was written down (0.1 is not the float's 0.1000…0055) in nano-USD."""
    return int(Decimal(str(usd)) * NANO_USD)
