"""Usage as a report: what is asked of the ledger, and the answer as JSON or CSV of any length."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from operator import itemgetter
from typing import Any

import msgspec

from gateway.book import GROUPS, Book, Row, UsageFilter
from gateway.fields import InvalidField
from gateway.limits import NANO_USD
from gateway.times import iso_ms

Values = list[Any]

_encode = msgspec.json.Encoder().encode


def format_usd(nano_usd: int) -> str:
    """Return an amount in US dollars with as many decimals as it has, two at least."""
    whole, rest = divmod(nano_usd, NANO_USD)
    return f"{whole}.{f'{rest:09d}'.rstrip('0'):0<2}"


# A report's column → what of the book's row it shows: a name, or what is made of the row.
_Columns = Mapping[str, str | Callable[[Row], Any]]

_AMOUNTS: _Columns = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "images": "images",
    "characters": "characters",
    "audio_ms": "audio_ms",
    "usd": lambda row: format_usd(row["nano_usd"]),
    "nano_usd": "nano_usd",
}
_RECORD: _Columns = {
    "at": lambda row: iso_ms(row["at_ms"]),
    "request_id": "request_id",
    "key": "key_id",
    "team": "team",
    "model": "model",
    "target": "target",
    "upstream": "upstream",
    "task": "task",
    "status": "status",
    "finish": "finish",
    "cached": "cached",
    "estimated": "estimated",
    **_AMOUNTS,
    "total_ms": "total_ms",
    "upstream_ms": "upstream_ms",
    "first_token_ms": "first_token_ms",
    "retries": "retries",
    "client": "client",
}
_SUMS: _Columns = {
    "requests": "requests",
    "cached": "cached",
    "estimated": "estimated",
    **_AMOUNTS,
}


@dataclass(frozen=True, slots=True)
class Report:
    """An answer that is still in the book: a value for each of `columns` in every row.

    Without `by` the rows are the ledger's records, else sums.
    """

    book: Book
    filter: UsageFilter
    by: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of a row's values, in order."""
        return tuple(self._columns())

    async def rows(self) -> AsyncGenerator[list[Values], None]:
        """Yield the rows in batches, as the book reads them."""
        shown = [_reader(what) for what in self._columns().values()]
        found = (
            self.book.usage_by(self.filter, by=self.by)
            if self.by
            else self.book.usage_rows(self.filter)
        )
        async with aclosing(found) as batches:
            async for batch in batches:
                yield [[read(row) for read in shown] for row in batch]

    def _columns(self) -> _Columns:
        return {**{name: name for name in self.by}, **_SUMS} if self.by else _RECORD


async def ask(
    book: Book,
    *,
    key: str | None = None,
    team: str | None = None,
    model: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    by: Sequence[str] | None = None,
) -> Report:
    """Return the report of the time from `since` up to `until`, which is no part of it.

    Raises UnknownKey, UnknownTeam, and InvalidField for a time that ends before it begins.
    """
    if key is not None:
        await book.show_key(key)
    if team is not None:
        await book.show_team(team)
    if since and until and since >= until:
        raise InvalidField("until", f"expected a time after {since.isoformat()}")
    asked = UsageFilter(
        key_id=key,
        team=team,
        model=model,
        since_ms=_milliseconds(since),
        until_ms=_milliseconds(until),
    )
    return Report(book, asked, tuple(by or ()))


def parse_by(text: str) -> tuple[str, ...]:
    """Return what to sum by: some of the book's groups, each once. Raises ValueError."""
    names = tuple(name.strip() for name in text.split(","))
    if any(name not in GROUPS for name in names) or len(set(names)) < len(names):
        raise ValueError(f"expected some of {','.join(GROUPS)}, each once, got {text[:60]!r}")
    return names


async def render_json(report: Report, *, head: bytes, tail: bytes) -> AsyncGenerator[bytes, None]:
    """Yield a JSON array of objects, a line each, between `head` and `tail`."""
    columns = report.columns
    before = head + b"[\n"
    async with aclosing(report.rows()) as batches:
        async for batch in batches:
            lines = (_encode(dict(zip(columns, values, strict=True))) for values in batch)
            yield before + b",\n".join(lines)
            before = b",\n"
    yield (b"\n]" if before == b",\n" else head + b"[]") + tail


async def render_csv(report: Report) -> AsyncGenerator[bytes, None]:
    """Yield lines as RFC 4180 has them, the first with the columns' names."""
    names = _csv([report.columns])
    async with aclosing(report.rows()) as batches:
        async for batch in batches:
            yield names + _csv([_plain(value) for value in values] for values in batch)
            names = b""
    yield names


def _csv(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _plain(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _reader(what: str | Callable[[Row], Any]) -> Callable[[Row], Any]:
    return itemgetter(what) if isinstance(what, str) else what


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else round(moment.timestamp() * 1000)
