"""Single values that belong to the whole installation."""

from __future__ import annotations

from sqlalchemy import Connection, insert, select

from gateway.book.changes import next_revision
from gateway.book.schema import settings

_ADMIN_DIGEST = "admin_key_digest"


def admin_digest(db: Connection) -> bytes | None:
    """Return the digest of the stored admin key, None before the first run."""
    query = select(settings.c.value).where(settings.c.name == _ADMIN_DIGEST)
    value = db.execute(query).scalar_one_or_none()
    return None if value is None else bytes.fromhex(value)


def claim_admin_digest(db: Connection, digest: bytes) -> bool:
    """Store the admin key's digest unless there is one; then return False."""
    next_revision(db)  # for its lock: of several that come at once, the others wait here
    if admin_digest(db) is not None:
        return False
    db.execute(insert(settings).values(name=_ADMIN_DIGEST, value=digest.hex()))
    return True
