"""What the tasks of the native task API, `POST {base}/models/{id}`, have in common."""

from __future__ import annotations

from collections.abc import Mapping

_MOST_DIGITS = 15  # of a count that is believed; Python refuses to read some thousand


def model_path(model: str) -> str:
    """Return the path of `model`, `/` without one: an endpoint's root holds one model only."""
    return f"/models/{model}" if model else "/"


def told_count(headers: Mapping[str, str], *names: str) -> int | None:
    """Return the count in the first header of `names` that is there, None if it is no number."""
    told = next((headers[name] for name in names if name in headers), "")
    return int(told) if told.isdecimal() and len(told) <= _MOST_DIGITS else None
