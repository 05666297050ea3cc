"""What an exchange uses, and what that costs: whole numbers, so that sums are exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(slots=True)
class Usage:
    """What an exchange used so far, or what it may use at most.

    `characters` were spoken, `audio_ms` is sound heard or made. `estimated`: counted here, as the
    upstream did not tell.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    pixels: int = 0
    characters: int = 0
    audio_ms: int = 0
    estimated: bool = False


class Amounts(NamedTuple):
    """What the limits count besides the request itself. `audio_ms` were transcribed."""

    tokens: int = 0
    images: int = 0
    characters: int = 0
    audio_ms: int = 0
    nano_usd: int = 0
