"""What has changed since: how other processes learn which keys to look up again.

Every change to a key or a team takes the next revision and writes it into its row. The one row
that counts revisions stays locked until its transaction ends, so changes become visible in the
order of their revisions, and nobody who has seen a revision can miss an earlier one.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, select, update

from gateway.book.schema import digests, keys, revision, teams

MOST_DIGESTS = 1000


@dataclass(frozen=True, slots=True)
class Changes:
    """The digests of all keys that changed until `revision`; None if too many to tell."""

    revision: int
    digests: list[bytes] | None


def next_revision(db: Connection) -> int:
    """Take the next revision. First in its transaction: so no two ever wait for each other."""
    taken = update(revision).values(value=revision.c.value + 1).returning(revision.c.value)
    return int(db.execute(taken).scalar_one())


def changes_since(db: Connection, seen: int) -> Changes:
    """Return what changed after the revision `seen`: keys, new ones too, and keys of teams."""
    # First, and so at most older than what is read below: better to tell a change twice.
    now = int(db.execute(select(revision.c.value)).scalar_one())
    if now == seen:
        return Changes(now, [])
    if now < seen:  # the book was put back to an older state
        return Changes(now, None)
    changed = _changed_keys(db, seen)
    if len(changed) > MOST_DIGESTS:
        return Changes(now, None)
    query = select(digests.c.digest).where(digests.c.key_id.in_(changed))
    found = db.scalars(query.limit(MOST_DIGESTS + 1)).all()
    return Changes(now, list(found) if len(found) <= MOST_DIGESTS else None)


def _changed_keys(db: Connection, seen: int) -> set[str]:
    """Return the ids of the keys that changed, cut off beyond what can be told."""
    changed_teams = select(teams.c.name).where(teams.c.revision > seen)
    changed: set[str] = set()
    # Two questions, each of which an index answers as far as the limit.
    for condition in (keys.c.revision > seen, keys.c.team.in_(changed_teams)):
        changed.update(db.scalars(select(keys.c.id).where(condition).limit(MOST_DIGESTS + 1)))
    return changed
