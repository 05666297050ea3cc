"""JSON schemas of what the admin API is sent; what checks it is `gateway.fields`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway.administration import DEFAULT_GRACE_SECONDS, LONGEST_GRACE_SECONDS
from gateway.fields import LIMITS, LONGEST_NAME, MOST_GLOBS, MOST_METADATA_BYTES

Schema = Mapping[str, Any]


def _object(properties: Schema, *required: str) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


_NAME = {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME}
_LIMIT = {"type": ["integer", "null"], "minimum": 0}
_MONEY = {"type": ["number", "string", "null"], "description": "At most 9 decimals."}
_LIMITS = {
    "type": ["object", "null"],
    "description": "null is no limit, and takes one off.",
    "properties": {name: _MONEY if name == "usd_per_month" else _LIMIT for name in LIMITS},
    "additionalProperties": False,
}
_METADATA = {
    "type": ["object", "null"],
    "description": f"At most {MOST_METADATA_BYTES} bytes as JSON. Replaced as a whole.",
}
_TEAM = {"limits": _LIMITS, "metadata": _METADATA}
_KEY = {
    "name": _NAME,
    "models": {
        "type": ["array", "null"],
        "items": {"type": "string"},
        "maxItems": MOST_GLOBS,
        "description": "Globs, each of which matches a model's id or alias. null: every model.",
    },
    **_TEAM,
    "expires_at": {"type": ["string", "null"], "format": "date-time"},
}
_GRACE = {
    "type": "integer",
    "minimum": 0,
    "maximum": LONGEST_GRACE_SECONDS,
    "default": DEFAULT_GRACE_SECONDS,
    "description": "For how long the old text is good yet.",
}

NEW_KEY = _object({**_KEY, "team": {"type": ["string", "null"]}}, "name")
KEY_CHANGES = _object(_KEY)
ROTATION = _object({"grace_seconds": _GRACE})
NOTHING = _object({})
NEW_TEAM = _object({"name": _NAME, **_TEAM}, "name")
TEAM_CHANGES = _object(_TEAM)
