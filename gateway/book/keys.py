"""API keys: what their creators decided, and the digests under which they are found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, or_, select, update

from gateway.book import audit, teams
from gateway.book.audit import Author
from gateway.book.changes import next_revision
from gateway.book.errors import UnknownKey, UnknownTeam
from gateway.book.schema import digests, keys, plain_limits
from gateway.book.schema import teams as teams_table
from gateway.limits import Limits

_CHANGEABLE = frozenset({"name", "models", "limits", "metadata", "expires_at"})
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyOptions:
    """What the creator of a key decides. `models` are globs, None for every model."""

    name: str
    team: str | None = None
    models: tuple[str, ...] | None = None
    limits: Limits = field(default_factory=Limits)
    metadata: Mapping[str, Any] = field(default_factory=dict)
    expires_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredKey(KeyOptions):
    """A key as the book has it."""

    id: str
    created_at: int
    revoked_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundKey(StoredKey):
    """A key found by a digest, which is good until `digest_expires_at` if that is set."""

    team_limits: Limits | None = None
    digest_expires_at: int | None = None


_FIELDS = tuple(one.name for one in fields(StoredKey))
_COLUMNS = tuple(keys.c[name] for name in _FIELDS)
_FIND = (
    select(
        *_COLUMNS,
        teams_table.c.limits.label("team_limits"),
        digests.c.expires_at.label("digest_expires_at"),
    )
    .select_from(digests)
    .join(keys, keys.c.id == digests.c.key_id)
    .outerjoin(teams_table, teams_table.c.name == keys.c.team)
    .where(digests.c.digest == bindparam("digest"))
)


def create(
    db: Connection,
    key_id: str,
    digest: bytes,
    *,
    options: KeyOptions,
    author: Author,
    make_team: bool,
) -> StoredKey:
    """Add a key; the id and the digest must be new. Raises UnknownTeam unless `make_team`."""
    revision = next_revision(db)
    if options.team is not None and teams.find(db, options.team) is None:
        if not make_team:
            raise UnknownTeam(options.team)
        teams.create(db, teams.Team(name=options.team, created_at=author.now), author=author)
    given = {one.name: getattr(options, one.name) for one in fields(KeyOptions)}
    key = StoredKey(id=key_id, created_at=author.now, **given)
    db.execute(insert(keys).values(**_values(key), number=revision, revision=revision))
    db.execute(insert(digests).values(digest=digest, key_id=key_id))
    audit.write(db, author, "key.create", subject=key_id, before=None, after=_public(key))
    return key


def find(db: Connection, digest: bytes) -> FoundKey | None:
    """Return the key with this digest: revoked, expired and replaced ones too."""
    row = db.execute(_FIND, {"digest": digest}).mappings().one_or_none()
    return None if row is None else FoundKey(**_typed(row))


def show(db: Connection, key_id: str) -> StoredKey:
    """Return one key. Raises UnknownKey."""
    row = db.execute(select(*_COLUMNS).where(keys.c.id == key_id)).mappings().one_or_none()
    if row is None:
        raise UnknownKey(key_id)
    return StoredKey(**_typed(row))


def listed(
    db: Connection, *, team: str | None, after: str | None, limit: int | None
) -> list[StoredKey]:
    """Return the keys that come after the one with the id `after`, oldest first."""
    query = select(*_COLUMNS).order_by(keys.c.number).limit(limit)
    if team is not None:
        query = query.where(keys.c.team == team)
    if after is not None:
        number = db.scalar(select(keys.c.number).where(keys.c.id == after))
        if number is None:
            raise UnknownKey(after)
        query = query.where(keys.c.number > number)
    return [StoredKey(**_typed(row)) for row in db.execute(query).mappings()]


def change(db: Connection, key_id: str, changes: Mapping[str, Any], *, author: Author) -> StoredKey:
    """Change some options; limits are merged over the old ones. Raises UnknownKey, ValueError."""
    teams.check_names(changes, _CHANGEABLE)
    revision = next_revision(db)
    before = show(db, key_id)
    after = replace(before, **teams.merged(changes, before.limits))
    return _write(db, before, after, revision=revision, action="key.update", author=author)


def rotate(
    db: Connection, key_id: str, new_digest: bytes, *, grace_seconds: int, author: Author
) -> StoredKey:
    """Give the key another digest; the old ones stay good for `grace_seconds`, not longer."""
    revision = next_revision(db)
    key = show(db, key_id)
    until = author.now + grace_seconds
    mine = digests.c.key_id == key_id
    # What ran out today stays: others may have to be told that it did.
    db.execute(delete(digests).where(mine, digests.c.expires_at < author.now - _DAY_SECONDS))
    lives_longer = or_(digests.c.expires_at.is_(None), digests.c.expires_at > until)
    db.execute(update(digests).where(mine, lives_longer).values(expires_at=until))
    db.execute(insert(digests).values(digest=new_digest, key_id=key_id))
    db.execute(update(keys).where(keys.c.id == key_id).values(revision=revision))
    after = {**_public(key), "old_key_expires_at": until}
    audit.write(db, author, "key.rotate", subject=key_id, before=_public(key), after=after)
    return key


def revoke(db: Connection, key_id: str, *, author: Author) -> bool:
    """Refuse this key from now on. False if it already was revoked. Raises UnknownKey."""
    revision = next_revision(db)
    before = show(db, key_id)
    if before.revoked_at is not None:
        return False
    after = replace(before, revoked_at=author.now)
    _write(db, before, after, revision=revision, action="key.revoke", author=author)
    return True


def _write(
    db: Connection,
    before: StoredKey,
    after: StoredKey,
    *,
    revision: int,
    action: str,
    author: Author,
) -> StoredKey:
    row = _values(after)
    db.execute(update(keys).where(keys.c.id == after.id).values(**row, revision=revision))
    audit.write(db, author, action, subject=after.id, before=_public(before), after=_public(after))
    return after


def _typed(row: Mapping[Any, Any]) -> dict[str, Any]:
    values = dict(row)
    if values["models"] is not None:
        values["models"] = tuple(values["models"])
    return values


def _values(key: StoredKey) -> dict[str, Any]:
    values = {name: getattr(key, name) for name in _FIELDS}
    return {**values, "metadata": dict(key.metadata)}


def _public(key: StoredKey) -> dict[str, Any]:
    return {**_values(key), "limits": plain_limits(key.limits)}
