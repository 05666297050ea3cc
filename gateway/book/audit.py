"""The audit: who changed what, written with the change itself. It is never changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from gateway.book.schema import audit

Plain = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who changes something, and when."""

    actor: str
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditRecord:
    """One change. `subject` is a key's id or a team's name; `before` is None for a new one."""

    id: int
    at: int
    actor: str
    action: str
    subject: str
    before: Plain | None
    after: Plain | None


def write(
    db: Connection, author: Author, action: str, *, subject: str, before: Plain | None, after: Plain
) -> None:
    """Add a record. `before` and `after` hold what anybody who may read the audit may see."""
    db.execute(
        insert(audit).values(
            at=author.now,
            actor=author.actor,
            action=action,
            subject=subject,
            before=before,
            after=after,
        )
    )


def read(
    db: Connection, *, subject: str | None, after: int | None, limit: int
) -> list[AuditRecord]:
    """Return the records before the one with the id `after`, newest first."""
    query = select(audit).order_by(audit.c.id.desc()).limit(limit)
    if subject is not None:
        query = query.where(audit.c.subject == subject)
    if after is not None:
        query = query.where(audit.c.id < after)
    return [AuditRecord(**row) for row in db.execute(query).mappings()]
