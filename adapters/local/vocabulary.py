"""A model's tokenizer: text to token ids with offsets, and ids back to text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer


@dataclass(frozen=True, slots=True)
class Piece:
    """One token of an input: `start` and `stop` count characters."""

    id: int
    text: str
    start: int
    stop: int


class Vocabulary:
    """The tokens of one model. Special tokens are recognised in any text, as upstreams do."""

    def __init__(self, path: Path, *, ends: Sequence[str]) -> None:
        self._tokenizer = Tokenizer.from_file(str(path))
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {number: token.content for number, token in added.items() if token.special}
        self.end_ids = frozenset(n for n, text in self._special.items() if text in ends)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, with what the tokenizer puts around it."""
        return list(self._tokenizer.encode(text).ids)

    def pieces(self, text: str) -> list[Piece]:
        """Return the tokens of `text` with their places in it."""
        encoding = self._tokenizer.encode(text)
        spans = zip(encoding.ids, encoding.offsets, strict=True)
        return [Piece(number, text[start:stop], start, stop) for number, (start, stop) in spans]

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special

    def text(self, token_id: int) -> str:
        """Return the token's own text; U+FFFD stands for bytes that are no whole character."""
        decoded: str = self._tokenizer.decode([token_id], skip_special_tokens=False)
        return decoded

    def restore(self, text: str, *, last: int) -> list[int]:
        """Return the ids behind `text`, of which only the `last` is known.

        A character may take several tokens, and llama.cpp reports the one that completes it.
        """
        if not text or self.is_special(last) or self.text(last) == text:
            return [last]
        ids = self.encode(text)
        return ids if ids[-1] == last else [last]
