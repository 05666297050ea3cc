"""Reading the ledger: statements for its rows, their sums, and what the counters should say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import eq, ge, lt
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    FromClause,
    Select,
    Text,
    cast,
    func,
    literal,
    or_,
    select,
    union_all,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from gateway.book.schema import ledger
from gateway.ledger import DAY_MS, first_day_of

_OURS = ("day", "shard", "entry")
_ROW = tuple(column for column in ledger.c if column.name not in _OURS)
_SUMMED = ("input_tokens", "output_tokens", "images", "characters", "audio_ms", "nano_usd")
_COUNTED = ("cached", "estimated")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageFilter:
    """Which rows: None is all. From `since_ms` on, and before `until_ms`, since 1970."""

    key_id: str | None = None
    team: str | None = None
    model: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None


class Total(NamedTuple):
    """What the counters of a scope (`key:<id>`, `team:<name>`) should say.

    Of the day: requests, tokens, images, spoken characters, transcribed milliseconds. Of the
    month: nano-USD.
    """

    scope: str
    d1: int
    d2: int
    d3: int
    d4: int
    d5: int
    m1: int


class _DateText(FunctionElement[str]):
    """A day number as ISO text."""

    inherit_cache = True
    type = Text()
    sqlite_format = "%Y-%m-%d"
    postgres_format = "YYYY-MM-DD"


class _MonthText(_DateText):
    """The month of a day number as ISO text."""

    inherit_cache = True
    sqlite_format = "%Y-%m"
    postgres_format = "YYYY-MM"


@compiles(_DateText, "sqlite")
def _sqlite_date(element: _DateText, compiler: SQLCompiler, **options: Any) -> str:
    day = compiler.process(element.clauses, **options)
    return f"strftime('{element.sqlite_format}', {day} * 86400, 'unixepoch')"


@compiles(_DateText, "postgresql")
def _postgres_date(element: _DateText, compiler: SQLCompiler, **options: Any) -> str:
    day = compiler.process(element.clauses, **options)
    return f"to_char(DATE '1970-01-01' + {day}, '{element.postgres_format}')"


_MONTH = _MonthText(ledger.c.day)
# What is shown, and by what rows are grouped and ordered.
_GROUPS: Mapping[str, tuple[ColumnElement[Any], ColumnElement[Any]]] = {
    "key": (ledger.c.key_id, ledger.c.key_id),
    "team": (ledger.c.team, ledger.c.team),
    "model": (ledger.c.model, ledger.c.model),
    "upstream": (ledger.c.upstream, ledger.c.upstream),
    "task": (ledger.c.task, ledger.c.task),
    "status": (ledger.c.status, ledger.c.status),
    "day": (_DateText(ledger.c.day), ledger.c.day),
    "month": (_MONTH, _MONTH),
}
GROUPS = tuple(_GROUPS)
"""By what usage can be summed."""


def rows(which: UsageFilter) -> Executable:
    """Return the statement for single rows, in the order of their time."""
    query = select(*_ROW).where(*_conditions(which))
    return query.order_by(ledger.c.at_ms, ledger.c.request_id)


def sums(which: UsageFilter, *, by: Sequence[str]) -> Executable:
    """Return the statement for sums in the order of what they are grouped by, None first.

    Raises ValueError for a group that is not one of `GROUPS`.
    """
    if unknown := [name for name in by if name not in _GROUPS]:
        raise ValueError(f"{unknown[0]}: expected one of {', '.join(GROUPS)}")
    shown = [_GROUPS[name][0].label(name) for name in by]
    grouped = [_GROUPS[name][1] for name in by]
    query = select(
        *shown,
        func.count().label("requests"),
        *(_sum(ledger.c[name]).label(name) for name in _SUMMED),
        *(func.count().filter(ledger.c[name]).label(name) for name in _COUNTED),
    )
    ordered = [one.nulls_first() for one in grouped]
    return query.where(*_conditions(which)).group_by(*grouped).order_by(*ordered)


def totals(
    *,
    day: int,
    month: int,
    scope: str | None = None,
    shard: int | None = None,
    upto: Mapping[int, int] | None = None,
) -> Executable:
    """Return the statement for the totals of a day and a month, of one scope or of all.

    `upto` is, by shard, the greatest entry that counts; of a shard that it does not name, none.
    """
    first, last = first_day_of(month), first_day_of(month + 1) - 1
    of_day, of_month = ledger.c.day == day, ledger.c.day.between(first, last)
    conditions: list[ColumnElement[bool]] = [
        ledger.c.at_ms >= min(day, first) * DAY_MS,
        ledger.c.at_ms < (max(day, last) + 1) * DAY_MS,
        or_(of_day, of_month),
    ]
    if shard is not None:
        conditions.append(ledger.c.shard == shard)
    if upto is not None:
        ends = ((ledger.c.shard == one) & (ledger.c.entry <= end) for one, end in upto.items())
        conditions.append(or_(False, *ends))
    source = select(*ledger.c).where(*conditions).subquery()
    kind, _, name = (scope or "").partition(":")
    chosen = [(one, owner) for one, owner in _OWNERS if kind in ("", one)]
    queries = [
        _totals_of(source, one, owner, name=name if scope else None, day=day, days=(first, last))
        for one, owner in chosen
    ]
    return union_all(*queries)


_OWNERS = (("key", "key_id"), ("team", "team"))


def _totals_of(
    source: FromClause,
    kind: str,
    owner: str,
    *,
    name: str | None,
    day: int,
    days: tuple[int, int],
) -> Select[*tuple[Any, ...]]:
    columns, of_day = source.c, source.c.day == day
    spoken, heard = columns.task == "speech", columns.task == "transcription"
    tokens = columns.input_tokens + columns.output_tokens
    column = columns[owner]
    query = select(
        (literal(f"{kind}:") + column).label("scope"),
        func.count().filter(of_day).label("d1"),
        _sum(tokens, of_day).label("d2"),
        _sum(columns.images, of_day).label("d3"),
        _sum(columns.characters, of_day & spoken).label("d4"),
        _sum(columns.audio_ms, of_day & heard).label("d5"),
        _sum(columns.nano_usd, columns.day.between(*days)).label("m1"),
    ).group_by(column)
    return query.where(column.is_not(None) if name is None else column == name)


def _sum(value: ColumnElement[Any], *conditions: ColumnElement[bool]) -> ColumnElement[int]:
    total = func.sum(value)
    # PostgreSQL sums big integers as decimals.
    return func.coalesce(cast(total.filter(*conditions) if conditions else total, BigInteger), 0)


def _conditions(which: UsageFilter) -> list[ColumnElement[bool]]:
    given = (
        (ledger.c.key_id, eq, which.key_id),
        (ledger.c.team, eq, which.team),
        (ledger.c.model, eq, which.model),
        (ledger.c.at_ms, ge, which.since_ms),
        (ledger.c.at_ms, lt, which.until_ms),
    )
    return [compare(column, value) for column, compare, value in given if value is not None]
