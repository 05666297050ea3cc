"""How many tokens texts have: counted, guessed, or at most."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

Count = Callable[[str], int]

LONG_TEXT = 4_000  # characters: a millisecond's work. Counting more leaves the event loop
_CHARACTERS_PER_TOKEN = 4  # a rough mean
_BYTES_PER_TOKEN = 3  # nearly all of what people write takes more


async def count_tokens(texts: Sequence[str], count: Count | None) -> list[int]:
    """Return what `count`, a tokenizer's, makes of each text; guesses if there is none."""
    if count is None:
        return [guess_tokens(len(text)) for text in texts]
    if sum(map(len, texts)) < LONG_TEXT:
        return [*map(count, texts)]
    return await asyncio.to_thread(lambda: [*map(count, texts)])


def guess_tokens(characters: int) -> int:
    """Return how many tokens so long a text has on average."""
    return -(-characters // _CHARACTERS_PER_TOKEN)


def most_tokens_of(text: str) -> int:
    """Return how many tokens `text` has at most, found without a tokenizer."""
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return -(-size // _BYTES_PER_TOKEN)
