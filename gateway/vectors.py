"""Embeddings as numbers: pooled, shortened and written as clients want them.

Plain lists and `struct`: numpy is no faster for vectors of a few thousand numbers (6 µs for 384
as base64, either way), and importing it costs 40 ms and 20 MiB.
"""

from __future__ import annotations

import math
import struct
from base64 import b64encode
from collections.abc import Sequence
from typing import Literal

Vector = Sequence[float]
Pooling = Literal["mean", "cls"]


def is_sound(vector: Vector) -> bool:
    """Tell whether there are numbers, all of them finite."""
    return len(vector) > 0 and math.isfinite(sum(vector))


def pool(tokens: Sequence[Vector], pooling: Pooling) -> list[float]:
    """Return one vector of length 1 from those of a text's tokens, which are equally long."""
    if pooling == "cls":
        return normalize(tokens[0])
    return normalize([sum(column) for column in zip(*tokens, strict=True)])


def shorten(vector: Vector, dimensions: int) -> list[float]:
    """Return the first `dimensions` numbers, scaled back to length 1, as OpenAI does."""
    return normalize(vector[:dimensions])


def normalize(vector: Vector) -> list[float]:
    """Return `vector` scaled to length 1; one of zeros as it is."""
    length = math.hypot(*vector)
    return [number / length for number in vector] if length else list(vector)


def to_base64(vector: Vector) -> str:
    """Return little-endian float32 in base64. Raises OverflowError for what has no float32."""
    return b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
