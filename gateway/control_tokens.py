"""Control tokens: found in a tokenizer and its template, defused in what clients send.

A native server reads the prompt as one text, so a client that writes `<|im_end|>` into a message
would end its turn and could speak as somebody else. A zero-width space behind the first character
leaves the text readable and makes it plain text to the tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

BREAK = "\u200b"

# Marks inside a turn, which clients send back in an assistant's history as the model wrote them.
_CONTENT_MARKS = frozenset(
    f"<{slash}{name}>"
    for name in ("think", "tool_call", "tool_calls", "tool_response", "tools")
    for slash in ("", "/")
) | {"[THINK]", "[/THINK]"}
_BARRED = re.compile(r"<[|｜][^<>]+[|｜]>", re.DOTALL)
# Marks that a template may write although the tokenizer holds no token of their own for them.
_WRITTEN = re.compile(
    r"<[|｜][^\s<>|｜]{1,40}[|｜]>|<\|[\w/]{1,40}>|<[\w/]{1,40}\|>|\[/?[A-Z][A-Z_]+\]"
    r"|<</?[A-Z]+>>|</?\w+_of_\w+>|</?s>|<bos>|<eos>"
)
_SURROGATES = re.compile("[\ud800-\udfff]")


def control_tokens(added: Iterable[tuple[str, bool]], source: str) -> frozenset[str]:
    """Return the texts that steer a model, of a tokenizer and the `source` of its template.

    `added` are the tokenizer's added tokens, each with whether it is special.
    """
    tokens = {
        text for text, special in added if special or _BARRED.fullmatch(text) or text in source
    }
    tokens.update(_WRITTEN.findall(source))
    return frozenset(
        text for text in tokens - _CONTENT_MARKS if len(text) > 1 and not text.isspace()
    )


class Defuser:
    """Rewrites client data so that nothing in it is read as one of `tokens`.

    A lone surrogate, which no tokenizer and no JSON body can hold, becomes U+FFFD.
    """

    __slots__ = ("_begins",)

    def __init__(self, tokens: Iterable[str]) -> None:
        # A look-ahead finds overlapping tokens too, of which breaking one may leave the other.
        self._begins = re.compile(f"(?={_any_of(tokens)}).", re.DOTALL)

    def text(self, text: str) -> str:
        """Return `text` with a zero-width space behind the first character of every token."""
        return self._begins.sub(lambda found: found[0] + BREAK, printable(text))

    def value(self, value: Any) -> Any:
        """Return JSON data with every string in it defused, keys included."""
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.text(str(key)): self.value(item) for key, item in value.items()}
            case list() | tuple():
                return [self.value(item) for item in value]
            case _:
                return value

    def apart(self, texts: list[str]) -> list[str]:
        """Return defused texts, so that they hold no token either when they are joined.

        Templates may strip them first, and put what stood between them somewhere else.
        """
        for joined in ("".join(texts), "".join(text.strip() for text in texts)):
            if self.text(joined) != joined:
                return [BREAK + text for text in texts]
        return texts


def printable(text: str) -> str:
    """Return `text` with lone surrogates replaced, so that it can be encoded."""
    return _SURROGATES.sub("\ufffd", text)


def _any_of(words: Iterable[str]) -> str:
    """Return a pattern of any of `words`.

    It is a tree of common beginnings: one position of the text is tried in the length of a
    token, not in their number, which is a thousand and more in some tokenizers.
    """
    words = set(words)
    if len(words) == 1:
        return re.escape(words.pop())
    branches: dict[str, set[str]] = {}
    for word in words:
        if not word:
            return ""
        branches.setdefault(word[0], set()).add(word[1:])
    if not branches:
        return "(?!)"
    patterns = [re.escape(first) + _any_of(rests) for first, rests in sorted(branches.items())]
    return patterns[0] if len(patterns) == 1 else f"(?:{'|'.join(patterns)})"
