"""Teams: names under which keys share limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sqlalchemy import Connection, insert, select, update

from gateway.book import audit
from gateway.book.audit import Author
from gateway.book.changes import next_revision
from gateway.book.errors import TeamExists, UnknownTeam
from gateway.book.schema import plain_limits, teams
from gateway.limits import Limits

_CHANGEABLE = frozenset({"limits", "metadata"})
_COLUMNS = (teams.c.name, teams.c.limits, teams.c.metadata, teams.c.created_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class Team:
    """A team as the book has it."""

    name: str
    limits: Limits = field(default_factory=Limits)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: int


def create(db: Connection, team: Team, *, author: Author) -> Team:
    """Add a team. Raises TeamExists."""
    revision = next_revision(db)
    if find(db, team.name) is not None:
        raise TeamExists(team.name)
    row = _values(team)
    db.execute(insert(teams).values(name=team.name, **row, revision=revision))
    audit.write(db, author, "team.create", subject=team.name, before=None, after=_public(team))
    return team


def change(db: Connection, name: str, changes: Mapping[str, Any], *, author: Author) -> Team:
    """Change `limits` (merged over the old ones) or `metadata`. Raises UnknownTeam, ValueError."""
    check_names(changes, _CHANGEABLE)
    revision = next_revision(db)
    before = show(db, name)
    after = replace(before, **merged(changes, before.limits))
    row = _values(after)
    db.execute(update(teams).where(teams.c.name == name).values(**row, revision=revision))
    old, new = _public(before), _public(after)
    audit.write(db, author, "team.update", subject=name, before=old, after=new)
    return after


def show(db: Connection, name: str) -> Team:
    """Return one team. Raises UnknownTeam."""
    team = find(db, name)
    if team is None:
        raise UnknownTeam(name)
    return team


def find(db: Connection, name: str) -> Team | None:
    """Return one team, None if there is none of this name."""
    row = db.execute(select(*_COLUMNS).where(teams.c.name == name)).mappings().one_or_none()
    return None if row is None else Team(**row)


def listed(db: Connection) -> list[Team]:
    """Return all teams by name."""
    return [Team(**row) for row in db.execute(select(*_COLUMNS).order_by(teams.c.name)).mappings()]


def check_names(changes: Mapping[str, Any], changeable: frozenset[str]) -> None:
    """Raise ValueError for what cannot be changed."""
    if unknown := sorted(changes.keys() - changeable):
        raise ValueError(f"{unknown[0]}: expected one of {', '.join(sorted(changeable))}")


def merged(changes: Mapping[str, Any], limits: Limits) -> dict[str, Any]:
    """Return `changes` with its limits laid over the old ones; None takes one away."""
    if "limits" not in changes:
        return dict(changes)
    check_names(changes["limits"], frozenset(limit.name for limit in fields(Limits)))
    return {**changes, "limits": replace(limits, **changes["limits"])}


def _values(team: Team) -> dict[str, Any]:
    return {
        "limits": team.limits,
        "metadata": dict(team.metadata),
        "created_at": team.created_at,
    }


def _public(team: Team) -> dict[str, Any]:
    return {"name": team.name, **_values(team), "limits": plain_limits(team.limits)}
