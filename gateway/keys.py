"""API keys: their form, their digest, and who owns one.

A key reads `sk-dm_`, 8 characters of public id, 32 of secret, 6 of CRC-32 over all before, in
base62. The id names the key in logs and reports; the check turns typing errors and invented keys
away without a look into the book. The book holds HMAC-SHA-256 digests only: a fast hash is right
for a secret of 190 random bits (OWASP ASVS 6.5.2 asks for 112), and the pepper, kept apart from
the book, makes a stolen book useless even for guessing.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import secrets
import time
import zlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Generic, Literal, TypeVar

from gateway.book import Book, KeyOptions, StoredKey

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX = "sk-dm_"
ADMIN_PREFIX = "sk-dm-admin_"
ID_LENGTH = 8
SECRET_LENGTH = 32
CHECK_LENGTH = 6
KEY_LENGTH = len(PREFIX) + ID_LENGTH + SECRET_LENGTH + CHECK_LENGTH
PEPPER_SIZE_BYTES = 32

Reason = Literal["missing", "malformed", "unknown", "expired", "revoked"]
V = TypeVar("V")


class InvalidKey(Exception):
    """No caller: `reason` says why. The message does not hold the key."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(f"API key {reason}")
        self.reason = reason


class BadPepper(Exception):
    """The pepper file is not what `load_pepper` wrote."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key just made. `text` is shown to its owner once and kept nowhere."""

    text: str = field(repr=False)
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A key's owner. `models` are globs, None for every model; `expires_at` is in Unix seconds."""

    id: str
    name: str
    team: str | None = None
    models: tuple[str, ...] | None = None
    expires_at: int | None = None

    def may_use(self, model: str) -> bool:
        """Tell whether a glob allows `model`. Case counts, and `*` crosses `/`."""
        if self.models is None:
            return True
        return any(fnmatchcase(model, glob) for glob in self.models)


@dataclass(frozen=True, slots=True)
class FirstRun:
    """The keys made on the very first run, to be shown once."""

    key: NewKey
    admin_key: str = field(repr=False)


def generate() -> NewKey:
    """Make a new API key."""
    key_id = _random(ID_LENGTH)
    return NewKey(_checked(PREFIX + key_id + _random(SECRET_LENGTH)), key_id)


def generate_admin() -> str:
    """Make a new admin key: no id, since there is only one."""
    return _checked(ADMIN_PREFIX + _random(SECRET_LENGTH))


def parse(text: str) -> str | None:
    """Return the public id of a key whose form and check are right, else None."""
    if len(text) != KEY_LENGTH or not text.startswith(PREFIX):
        return None
    if not (text.isascii() and text[len(PREFIX) :].isalnum()):
        return None
    if _checked(text[:-CHECK_LENGTH]) != text:
        return None
    return text[len(PREFIX) :][:ID_LENGTH]


def digest(text: str, pepper: bytes) -> bytes:
    """Return the HMAC-SHA-256 under which the book knows a key."""
    return hmac.digest(pepper, text.encode(), "sha256")


def load_pepper(data_dir: Path, *, env: Mapping[str, str] = os.environ) -> bytes:
    """Return `DRAGOMAN_PEPPER`, else the file `pepper` of the data directory, made if missing.

    Processes that start together get the same pepper. Raises OSError and BadPepper.
    """
    if given := env.get("DRAGOMAN_PEPPER"):
        return given.encode()
    path = data_dir / "pepper"
    if not path.exists():
        _create_pepper(path)
    pepper = path.read_bytes()
    if len(pepper) != PEPPER_SIZE_BYTES:
        raise BadPepper(f"{str(path)!r}: expected {PEPPER_SIZE_BYTES} bytes, got {len(pepper)}")
    return pepper


async def first_run(book: Book, pepper: bytes) -> FirstRun | None:
    """Create the key `default` and the admin key, unless some process has done so before."""
    if await book.admin_digest() is not None:
        return None
    made = FirstRun(generate(), generate_admin())
    won = await book.claim_first_run(
        made.key.id,
        digest(made.key.text, pepper),
        options=KeyOptions(name="default"),
        admin_digest=digest(made.admin_key, pepper),
    )
    return made if won else None


async def admin_digest(
    book: Book, pepper: bytes, *, env: Mapping[str, str] = os.environ
) -> bytes | None:
    """Return the digest of the admin key in force: `DRAGOMAN_ADMIN_KEY`, else the stored one."""
    if given := env.get("DRAGOMAN_ADMIN_KEY"):
        return digest(given, pepper)
    return await book.admin_digest()


def is_admin(text: str, pepper: bytes, *, expected: bytes | None) -> bool:
    """Tell whether `text` is the admin key with the digest `expected`; nobody is without one."""
    return expected is not None and hmac.compare_digest(digest(text, pepper), expected)


class Keyring:
    """Who a key belongs to, from memory when asked again within a second.

    `find` looks a digest up in the book. A revoked key is refused everywhere at the latest
    `fresh_seconds` later, an expired one at once. Memory holds digests, never keys.
    """

    def __init__(
        self,
        find: Callable[[bytes], Awaitable[StoredKey | None]],
        pepper: bytes,
        *,
        size: int = 10_000,
        fresh_seconds: float = 1.0,
        refused_seconds: float = 2.0,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._find = find
        self._pepper = pepper
        self._now = now
        # Apart, so that a flood of invented keys does not push the callers out.
        self._callers: _Recent[Caller] = _Recent(size, fresh_seconds, clock=clock)
        self._refusals: _Recent[Reason] = _Recent(size, refused_seconds, clock=clock)
        self._lookups: dict[bytes, asyncio.Task[Caller | Reason]] = {}

    def cached(self, text: str) -> Caller | None:
        """Return the caller if memory knows the key to be good now, else ask `authenticate`."""
        if len(text) != KEY_LENGTH:
            return None
        caller = self._callers.get(digest(text, self._pepper))
        return None if caller is None or self._expired(caller) else caller

    async def authenticate(self, text: str | None) -> Caller:
        """Return the key's owner. Raises InvalidKey, and what `find` raises.

        Calls at the same time for one key share one look-up.
        """
        if not text:
            raise InvalidKey("missing")
        if parse(text) is None:
            raise InvalidKey("malformed")
        key = digest(text, self._pepper)
        found = self._callers.get(key) or self._refusals.get(key) or await self._shared(key)
        if not isinstance(found, Caller):
            raise InvalidKey(found)
        if self._expired(found):
            raise InvalidKey("expired")
        return found

    def _expired(self, caller: Caller) -> bool:
        return caller.expires_at is not None and caller.expires_at <= self._now()

    async def _shared(self, key: bytes) -> Caller | Reason:
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = self._lookups[key] = asyncio.create_task(self._look_up(key))
            lookup.add_done_callback(lambda _: self._lookups.pop(key))
        # One of those who wait may be cancelled; the look-up goes on for the others.
        return await asyncio.shield(lookup)

    async def _look_up(self, key: bytes) -> Caller | Reason:
        stored = await self._find(key)
        if stored is None or stored.revoked_at is not None:
            reason: Reason = "unknown" if stored is None else "revoked"
            self._refusals.put(key, reason)
            return reason
        caller = Caller(
            id=stored.id,
            name=stored.name,
            team=stored.team,
            models=stored.models,
            expires_at=stored.expires_at,
        )
        self._callers.put(key, caller)
        return caller


class _Recent(Generic[V]):
    """At most `size` values, each for `lifetime_seconds` from when it was put in."""

    def __init__(self, size: int, lifetime_seconds: float, *, clock: Callable[[], float]) -> None:
        self._size = size
        self._lifetime_seconds = lifetime_seconds
        self._clock = clock
        self._entries: dict[bytes, tuple[V, float]] = {}

    def get(self, key: bytes) -> V | None:
        entry = self._entries.get(key)
        return entry[0] if entry is not None and self._clock() < entry[1] else None

    def put(self, key: bytes, value: V) -> None:
        # A dict keeps the order of insertion, and all live equally long: the first dies first.
        self._entries.pop(key, None)
        if len(self._entries) >= self._size:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = (value, self._clock() + self._lifetime_seconds)


def _random(length: int) -> str:
    return "".join(secrets.choice(BASE62) for _ in range(length))


def _checked(text: str) -> str:
    check = zlib.crc32(text.encode())
    digits = ""
    for _ in range(CHECK_LENGTH):
        check, digit = divmod(check, 62)
        digits = BASE62[digit] + digits
    return text + digits


def _create_pepper(path: Path) -> None:
    """Write the file whole under another name, then link it: whoever links first wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"pepper.{secrets.token_hex(8)}")
    with open(draft, "xb", opener=_private) as file:
        file.write(secrets.token_bytes(PEPPER_SIZE_BYTES))
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
