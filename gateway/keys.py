"""API keys: their form, their digest, and who owns one.

A key reads `sk-dm_`, 8 characters of public id, 32 of secret, 6 of CRC-32 over all before, in
base62. The id names the key in logs and reports; the check turns typing errors and invented keys
away without a look into the book. The book holds HMAC-SHA-256 digests only: a fast hash is right
for a secret of 190 random bits (OWASP ASVS 6.5.2 asks for 112), and the pepper, kept apart from
the book, makes a stolen book useless even for guessing.
"""

from __future__ import annotations

import hmac
import os
import secrets
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from gateway.accounts import Account
from gateway.book import Book, KeyOptions
from gateway.limits import Limits

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX = "sk-dm_"
ADMIN_PREFIX = "sk-dm-admin_"
ID_LENGTH = 8
SECRET_LENGTH = 32
CHECK_LENGTH = 6
KEY_LENGTH = len(PREFIX) + ID_LENGTH + SECRET_LENGTH + CHECK_LENGTH
PEPPER_SIZE_BYTES = 32

Reason = Literal["missing", "malformed", "unknown", "expired", "revoked"]


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
    """A key's owner. `models` are globs, None for every model.

    `expires_at`, in Unix seconds, is the end of the text that was shown: of a key's old text
    after a rotation, which ends before the key does.
    """

    id: str
    name: str
    team: str | None = None
    models: tuple[str, ...] | None = None
    limits: Limits = field(default_factory=Limits)
    team_limits: Limits | None = None
    expires_at: int | None = None
    account: Account = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        account = Account.of(
            key_id=self.id, team=self.team, limits=self.limits, team_limits=self.team_limits
        )
        object.__setattr__(self, "account", account)

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


def generate(key_id: str | None = None) -> NewKey:
    """Make a new API key, or with `key_id` a new text for a key that there is."""
    key_id = key_id or _random(ID_LENGTH)
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
