"""One hibari voice: text to sound. The only file that knows the package."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hibari import SAMPLE_RATE, Hibari

from adapters.local.problems import Invalid

# The model sees a part at once, in memory that grows with its square: 4,000 phonemes took 6 s
# and 1 GB. The package splits at punctuation only, so text without any is split here.
_PART_PHONEMES = 400
_WARM_UP_TEXT = "Warm up."


class Voice:
    """The voice in `weights`. The constructor blocks; one thread may use it at a time."""

    sample_rate: int = SAMPLE_RATE

    def __init__(self, weights: Path, *, threads: int) -> None:
        self._hibari = Hibari(model=str(weights), threads=threads)
        for _ in self.read(_WARM_UP_TEXT, speed=1.0, seed=0):
            pass  # its lexicons load with the first word

    def read(self, text: str, *, speed: float, seed: int) -> Iterator[bytes]:
        """Yield 16-bit little-endian samples, part by part. Raises Invalid."""
        noise = np.random.default_rng(seed)
        for phonemes in self._phonemes(text):
            for part in parts(phonemes):
                sound = self._hibari.from_ids(self._hibari.ids(part), speed, noise)
                yield (sound.clip(-1, 1) * 32767).astype("<i2").tobytes()

    def _phonemes(self, text: str) -> list[str]:
        """Return the phonemes of each sentence."""
        try:
            return list(self._hibari.phonemize(text))
        except (LookupError, ValueError, ArithmeticError, RecursionError):
            # Its reading rules have gaps: it has no words for a number of a hundred digits.
            raise Invalid("`inputs` holds something that cannot be read aloud") from None


def parts(phonemes: str) -> Iterator[str]:
    """Yield `phonemes` in parts that are short enough, whole words as far as they are."""
    part = ""
    for word in phonemes.split(" "):
        if part and len(part) + 1 + len(word) > _PART_PHONEMES:
            yield part
            part = ""
        part = f"{part} {word}" if part else word
        while len(part) > _PART_PHONEMES:
            yield part[:_PART_PHONEMES]
            part = part[_PART_PHONEMES:]
    if part:
        yield part
