"""Keys and teams, made and changed: the same for the admin API and for the command line.

What comes in is checked field by field; what goes out are plain fields, with times as ISO 8601.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Any

from adapters.base import Json
from gateway.book import AuditRecord, Book, KeyOptions, StoredKey, Team, UnknownTeam
from gateway.fields import (
    Check,
    InvalidField,
    check_expiry,
    check_fields,
    check_globs,
    check_limits,
    check_metadata,
    check_name,
    check_team_name,
    limits_checked,
    limits_of,
)
from gateway.keys import generate
from gateway.limits import Limits
from gateway.times import iso

DEFAULT_GRACE_SECONDS = 24 * 3600
LONGEST_GRACE_SECONDS = 365 * 24 * 3600


class Administration:
    """What an operator may do to the book; `actor` is who does it, for the audit log.

    `digest` turns a key's text into what the book knows it by. `models` are the names that a
    key's globs can match, `with_hub`: the Hub's too. Everything raises BookError and, for what is
    asked, InvalidField.
    """

    def __init__(
        self,
        book: Book,
        digest: Callable[[str], bytes],
        *,
        models: Collection[str],
        actor: str,
        with_hub: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._book = book
        self._digest = digest
        self._actor = actor
        self._now = now
        self._team_changes: dict[str, Check] = {"limits": check_limits, "metadata": check_metadata}
        self._key_changes: dict[str, Check] = {
            "name": check_name,
            "models": check_globs(models, with_hub=with_hub),
            **self._team_changes,
            "expires_at": check_expiry(now),
        }

    async def create_key(self, given: Mapping[str, Any], *, make_team: bool = False) -> Json:
        """Make a key and return its fields, and its text as `key`: it is kept nowhere.

        `make_team`: a team that there is not yet is begun, without limits.
        """
        checks = {"name": check_name, "team": _check_team, **self._key_changes}
        options = check_fields(_with("name", given), checks)
        limits = limits_of(options.pop("limits", {}))
        new = generate()
        try:
            stored = await self._book.create_key(
                new.id,
                self._digest(new.text),
                options=KeyOptions(**options, limits=limits),
                actor=self._actor,
                make_team=make_team,
            )
        except UnknownTeam as exc:
            raise InvalidField("team", str(exc), code="team_not_found") from None
        return {"key": new.text, **self.describe_key(stored)}

    async def update_key(self, key_id: str, given: Mapping[str, Any]) -> Json:
        """Change what is given and return the key's fields. A limit that is None is taken off."""
        if "team" in given:
            raise InvalidField("team", "a key's team cannot change; make a new key for the team")
        changes = check_fields(given, self._key_changes)
        with limits_checked():
            stored = await self._book.update_key(key_id, changes, actor=self._actor)
        return self.describe_key(stored)

    async def rotate_key(self, key_id: str, *, grace_seconds: int) -> Json:
        """Give a key a new text and return its fields, the text as `key`.

        The old text is good for `grace_seconds` yet, up to `old_key_expires_at`.
        """
        check_grace("grace_seconds", grace_seconds)
        if self._state(await self._book.show_key(key_id)) == "revoked":
            raise InvalidField("id", f"the key {key_id!r} is revoked", code="key_revoked")
        new = generate(key_id)
        until = self._now() + grace_seconds
        stored = await self._book.rotate_key(
            key_id, self._digest(new.text), grace_seconds=grace_seconds, actor=self._actor
        )
        fields = self.describe_key(stored)
        return {"key": new.text, **fields, "old_key_expires_at": iso(until)}

    async def revoke_key(self, key_id: str) -> bool:
        """Refuse a key from now on. False if it already was revoked."""
        return await self._book.revoke_key(key_id, actor=self._actor)

    async def create_team(self, given: Mapping[str, Any]) -> Json:
        """Begin a team and return its fields. Raises TeamExists."""
        fields = check_fields(_with("name", given), {"name": check_team_name, **self._team_changes})
        stored = await self._book.create_team(
            fields["name"],
            limits=limits_of(fields.get("limits", {})),
            metadata=fields.get("metadata", {}),
            actor=self._actor,
        )
        return describe_team(stored)

    async def update_team(self, name: str, given: Mapping[str, Any]) -> Json:
        """Change what is given and return the team's fields. A limit that is None is taken off."""
        if "name" in given:
            raise InvalidField("name", "a team's name cannot change")
        changes = check_fields(given, self._team_changes)
        with limits_checked():
            stored = await self._book.update_team(name, changes, actor=self._actor)
        return describe_team(stored)

    def describe_key(self, key: StoredKey) -> Json:
        """Return a key as the outside sees it."""
        return {
            "id": key.id,
            "name": key.name,
            "team": key.team,
            "models": key.models,
            "limits": _plain(key.limits),
            "metadata": dict(key.metadata),
            "state": self._state(key),
            "created_at": iso(key.created_at),
            "expires_at": iso(key.expires_at) if key.expires_at else None,
            "revoked_at": iso(key.revoked_at) if key.revoked_at else None,
        }

    def _state(self, key: StoredKey) -> str:
        if key.revoked_at is not None:
            return "revoked"
        is_over = key.expires_at is not None and key.expires_at <= self._now()
        return "expired" if is_over else "active"


def describe_team(team: Team) -> Json:
    """Return a team as the outside sees it."""
    return {
        "name": team.name,
        "limits": _plain(team.limits),
        "metadata": dict(team.metadata),
        "created_at": iso(team.created_at),
    }


def describe_change(change: AuditRecord) -> Json:
    """Return a line of the audit log as the outside sees it."""
    return {
        "id": change.id,
        "at": iso(change.at),
        "actor": change.actor,
        "action": change.action,
        "subject": change.subject,
        "before": _with_times(change.before),
        "after": _with_times(change.after),
    }


def check_grace(field: str, value: Any) -> int:
    """Return for how long a replaced key is good yet, in seconds. Raises InvalidField."""
    if type(value) is not int or not 0 <= value <= LONGEST_GRACE_SECONDS:
        raise InvalidField(field, f"expected whole seconds from 0 to {LONGEST_GRACE_SECONDS:,}")
    return value


def _check_team(field: str, value: Any) -> str | None:
    return None if value is None else check_team_name(field, value)


def _plain(limits: Limits) -> dict[str, int | str]:
    """Return the limits that are set, money as text: as a number JSON would round it."""
    return {
        name: f"{value:f}" if isinstance(value, Decimal) else value
        for name, value in limits.given().items()
    }


def _with_times(fields: Mapping[str, Any] | None) -> Json | None:
    if fields is None:
        return None
    return {
        name: iso(value) if name.endswith("_at") and value is not None else value
        for name, value in fields.items()
    }


def _with(field: str, given: Mapping[str, Any]) -> Mapping[str, Any]:
    if field not in given:
        raise InvalidField(field, "missing", code="missing_required_parameter")
    return given
