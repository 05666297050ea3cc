"""A tokenizer alone, for models that are sent texts but no conversations.

`tokenizers` reads it: that costs some 20 ms, where `transformers` and its templates cost 1.3 s.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.errors import BadRequest
from gateway.templates import TemplateUnavailable

if TYPE_CHECKING:
    import tokenizers


class Tokenizer:
    """One model's tokenizer. Safe to use from several threads."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, *, source: str) -> None:
        # Files of sentence encoders ask for padding and cuts, which would be counted.
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self.source = source
        self._tokenizer = tokenizer
        self._size = tokenizer.get_vocab_size()

    @classmethod
    def load(cls, source: str) -> Tokenizer:
        """Load from a folder or from the Hub by id. Blocks, as long as a download may take.

        Raises TemplateUnavailable.
        """
        import tokenizers

        folder = Path(source)
        try:
            if folder.is_dir():
                read = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
            else:
                read = tokenizers.Tokenizer.from_pretrained(source)
        except Exception as error:  # the library's Rust part raises nothing narrower
            reason = str(error).strip().partition("\n")[0]
            raise TemplateUnavailable(
                f"The tokenizer {source!r} cannot be loaded: {reason}. Name a folder that holds "
                "tokenizer.json, or the Hub id of a model that this machine may download."
            ) from error
        return cls(read, source=source)

    def count(self, texts: Iterable[str]) -> int:
        """Return how many tokens an upstream makes of `texts`, its marks at both ends included."""
        return sum(len(self._tokenizer.encode(text).ids) for text in texts)

    def tokens(self, text: str) -> list[tuple[int, tuple[int, int]]]:
        """Return the tokens of `text`, marks included, each with its first and last place."""
        encoded = self._tokenizer.encode(text)
        return [*zip(encoded.ids, encoded.offsets, strict=True)]

    def decode(self, ids: Sequence[int], *, param: str) -> str:
        """Return the text of token ids without special tokens, which an upstream adds itself.

        Raises BadRequest, naming `param`, for what is no token of this model.
        """
        if any(not 0 <= token_id < self._size for token_id in ids):
            raise BadRequest(
                f"{param!r} holds a token id outside of 0 to {self._size - 1}: tokens are those of "
                "this model's own tokenizer. Send text, if yours are another's (LangChain: "
                "check_embedding_ctx_length=False).",
                code="invalid_value",
                param=param,
            )
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text
