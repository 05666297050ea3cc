"""Long text in sentences, for speech models that take only so much at once."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

# A sentence's end with its quotes and brackets, and the blanks after it; in scripts that write
# no blanks, the full-width mark alone; any line break.
_END = re.compile(
    r"""(?<![.!?…])[.!?…]+["'”’»)\]]*\s+ | [。！？｡]+["'”’」』）】]*\s* | \n\s*""", re.VERBOSE
)
_PAUSE = re.compile(r"(?<![,;:—–])[,;:—–]+\s+|[、，；：]\s*")
_BLANK = re.compile(r"\s+")
_INK = re.compile(r"\S")
_LAST_WORD = re.compile(r"(\S+)\.\s*$")
_INITIALS = re.compile(r"\W*(?:\w\.)*[^\W\d]")  # "J", "U.S", "e.g", without the last period
_ABBREVIATIONS = frozenset(
    "mr mrs ms dr prof st sr jr vs etc inc ltd co corp no nos vol fig al gen col sgt capt lt rev "
    "hon pres gov sen rep dept est approx ca cf viz mt ave blvd rd jan feb mar apr jun jul aug "
    "sep sept oct nov dec bzw usw ca nr str".split()
)
_JOINERS = "\u200d\ufe0e\ufe0f"


def split_sentences(text: str, longest: int) -> list[str]:
    """Return `text` cut at the ends of its sentences, no piece over `longest` characters.

    A sentence that is longer is cut at a pause, else between words, else anywhere. The pieces
    joined are `text`; blanks stay at a piece's end, and a piece may hold nothing else.
    """
    pieces: list[str] = []
    start = 0
    for end in [*_ends(text), len(text)]:
        pieces += _cut(text[start:end], longest)
        start = end
    return pieces


def pack_sentences(pieces: list[str], longest: int) -> list[str]:
    """Return neighbouring `pieces` joined, as far as they fit into `longest` characters."""
    packed: list[str] = []
    for piece in pieces:
        if packed and len(packed[-1]) + len(piece) <= longest:
            packed[-1] += piece
        else:
            packed.append(piece)
    return packed


def _ends(text: str) -> Iterator[int]:
    last = 0
    for found in _END.finditer(text):
        if _INK.search(text, last, found.start()) and not _goes_on(text, found):
            last = found.end()
            yield last


def _goes_on(text: str, found: re.Match[str]) -> bool:
    """Whether the mark ends no sentence: an abbreviation's period, or a small letter follows."""
    if not found[0].startswith(".") or "\n" in found[0]:
        return False
    if text[found.end() : found.end() + 1].islower():
        return True
    word = _LAST_WORD.search(text, max(0, found.start() - 24), found.start() + 1)
    if word is None or found[0].rstrip() != ".":
        return False
    return bool(_INITIALS.fullmatch(word[1])) or word[1].strip("(\"'“‘").lower() in _ABBREVIATIONS


def _cut(sentence: str, longest: int) -> Iterator[str]:
    while len(sentence) > longest:
        end = _last_end(_PAUSE, sentence, longest) or _last_end(_BLANK, sentence, longest)
        end = end or _between_characters(sentence, longest)
        yield sentence[:end]
        sentence = sentence[end:]
    if sentence:
        yield sentence


def _last_end(mark: re.Pattern[str], sentence: str, longest: int) -> int:
    """Return where the last mark in the second half of the first `longest` ends, or 0."""
    ends = [found.end() for found in mark.finditer(sentence, longest // 2, longest)]
    return ends[-1] if ends else 0


def _between_characters(sentence: str, longest: int) -> int:
    """Return the last place up to `longest` that parts no letter from its accents."""
    for end in range(longest, longest // 2, -1):
        if not unicodedata.combining(sentence[end]) and sentence[end] not in _JOINERS:
            return end
    return longest
