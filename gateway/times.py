"""Times and durations as people write them: ISO 8601, `24h`, `7d`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

_UNIT_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def parse_duration(text: str) -> int:
    """Return the seconds of `90s`, `30m`, `24h`, `7d`, `2w` or `0`. Raises ValueError."""
    if text == "0":
        return 0
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(
            f"expected a number and a unit (s, m, h, d, w) as in 24h, got {text[:60]!r}"
        )
    return int(match[1]) * _UNIT_SECONDS[match[2]]


def parse_time(text: str) -> datetime:
    """Return an ISO 8601 date or time, in UTC unless it says otherwise. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"expected an ISO 8601 date or time as in 2030-01-31T12:00:00Z, got {text[:60]!r}"
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if not _FIRST <= moment <= _LAST:
        raise ValueError(f"expected a time from 1970 to 9999, got {text[:60]!r}")
    return moment.astimezone(UTC)


def parse_moment(text: str, now: datetime) -> datetime:
    """Return a time, or the one that a duration as `7d` lies before `now`. Raises ValueError."""
    if _DURATION.fullmatch(text):
        most_seconds = (now - _FIRST).total_seconds()
        return now - timedelta(seconds=min(parse_duration(text), most_seconds))
    try:
        return parse_time(text)
    except ValueError as exc:
        raise ValueError(f"{exc}; or a duration before now as in 7d") from None


def iso(seconds: float) -> str:
    """Return a Unix time as ISO 8601 in UTC, to the second."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso_ms(milliseconds: int) -> str:
    """Return a Unix time in milliseconds as ISO 8601 in UTC."""
    seconds, rest = divmod(milliseconds, 1000)
    return f"{_to_the_second(seconds)}.{rest:03d}Z"


@lru_cache(maxsize=8)  # log lines of one second follow each other
def _to_the_second(seconds: int) -> str:
    return (_FIRST + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
