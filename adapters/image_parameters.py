"""OpenAI's image parameters, as far as all image dialects read them alike."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

from adapters.base import Json
from adapters.leaving_out import RECORDS, names_left_out

# Said elsewhere in the upstream's request, or honoured by the gateway itself: the format and the
# way of the answer.
_HONOURED = RECORDS.union(
    "model prompt n size response_format output_format output_compression stream "
    "partial_images".split()
)
# Values that ask for what happens anyway.
_DEFAULTS = {"quality": "auto", "background": "auto", "moderation": "auto"}
_U64 = 2**64 - 1


def left_out(body: Json, taken: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the fields that are neither in `taken` nor honoured otherwise."""
    return names_left_out(body, honoured=_HONOURED.union(taken), defaults=_DEFAULTS)


def size_of(body: Json) -> tuple[int, int] | None:
    """Return width and height in pixels; None leaves them to the model."""
    size = body.get("size", "auto")
    if size == "auto":
        return None
    width, _, height = size.partition("x")
    return int(width), int(height)


def seeds_of(body: Json) -> tuple[int | None, ...]:
    """Return the seed of each image that is asked for; None leaves it to the server.

    Image k of a request with a seed has seed + k, so it is the same picture however many are
    asked for. Several without a seed get distinct random ones, below 2**31: more than that some
    servers refuse, and equal seeds would give equal pictures.
    """
    count = body.get("n", 1)
    if "seed" in body:
        return tuple((body["seed"] + at) & _U64 for at in range(count))
    if count == 1:
        return (None,)
    first = secrets.randbelow(2**31 - count)
    return tuple(first + at for at in range(count))
