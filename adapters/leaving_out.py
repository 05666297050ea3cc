"""Parameters that a dialect has no words for: they stay behind, and the client is told."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from adapters.base import Json

RECORDS = frozenset({"user", "metadata", "safety_identifier"})
"""Records about the request rather than wishes about the answer: no loss if they stay behind."""

_NOTHING: Mapping[str, Any] = {}


def names_left_out(
    body: Json, *, honoured: Collection[str], defaults: Mapping[str, Any] = _NOTHING
) -> tuple[str, ...]:
    """Return the names of the fields of `body` that are lost: neither `honoured` nor as they are.

    `defaults`: the values that ask for what happens anyway.
    """
    return tuple(
        name
        for name, value in body.items()
        if name not in honoured and not (name in defaults and value == defaults[name])
    )
