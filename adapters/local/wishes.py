"""What a client wishes about how its request is served, beside what it asks.

Headers win over the body's `options`, which older clients send.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

_FALSE = frozenset({"0", "false"})


@dataclass(frozen=True, slots=True)
class Wishes:
    """`use_cache`: an answer given before will do. `wait_for_model`: hold on while it loads.

    `load_model`: a model that is cold is to be loaded for this request.
    """

    use_cache: bool = True
    wait_for_model: bool = False
    load_model: bool = True


def parse_wishes(headers: Mapping[str, str], body: bytes) -> Wishes:
    """Return the wishes in `headers` and `body`; what is not understood is not a wish."""
    options = _options(body)
    return Wishes(
        use_cache=_flag(headers, "x-use-cache", options.get("use_cache"), default=True),
        wait_for_model=_flag(
            headers, "x-wait-for-model", options.get("wait_for_model"), default=False
        ),
        load_model=_flag(headers, "x-load-model", None, default=True),
    )


def _flag(headers: Mapping[str, str], name: str, option: object, *, default: bool) -> bool:
    if name in headers:
        return headers[name].strip().lower() not in _FALSE
    return option if isinstance(option, bool) else default


def _options(body: bytes) -> Mapping[str, Any]:
    try:
        payload = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    options = payload.get("options") if isinstance(payload, dict) else None
    return options if isinstance(options, dict) else {}
