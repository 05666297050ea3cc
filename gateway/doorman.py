"""The doorman: who may come in by which door, and how often a stranger may knock.

An API key opens `/v1`, the admin key opens `/admin`, and neither opens the other's. Both may come
in any of the headers that clients use: OpenAI's, Azure's, Anthropic's.
"""

from __future__ import annotations

import hmac
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

from gateway.book import Book
from gateway.errors import BadRequest, Unauthenticated
from gateway.keyring import Keyring
from gateway.keys import (
    ADMIN_PREFIX,
    Caller,
    InvalidKey,
    admin_digest,
    digest,
    is_admin,
    parse,
)
from gateway.throttle import Throttle, TooManyFailures
from gateway.wire import header

if TYPE_CHECKING:
    from litestar.connection import ASGIConnection
    from litestar.handlers.base import BaseRouteHandler
    from litestar.types import Guard, HTTPScope, Scope

ADMIN = "admin"
"""What `scope["user"]` is behind the door of `/admin`."""

_REFUSALS = {
    "missing": "You didn't provide an API key. Send it as 'Authorization: Bearer sk-dm_…'.",
    "malformed": "Incorrect API key provided: it is not a whole Dragoman key (sk-dm_…).",
    "unknown": "Incorrect API key provided.",
    "expired": "This API key has expired.",
    "revoked": "This API key has been revoked.",
}
_ADMIN_KEY_HERE = (
    "Incorrect API key provided: this is an admin key, which opens /admin only. "
    "Send an API key (sk-dm_…)."
)
_API_KEY_HERE = (
    "Incorrect admin key provided: this is an API key, which opens /v1 only. "
    "Send the admin key (sk-dm-admin_…, or what DRAGOMAN_ADMIN_KEY holds)."
)
_ADMIN_KEY_UNSET = (
    "This gateway has no admin key. Set DRAGOMAN_ADMIN_KEY in its environment and start it again."
)
_ADMIN_KEY_MISSING = (
    "You didn't provide the admin key. Send it as 'Authorization: Bearer …': the first start of "
    "the gateway showed it, unless DRAGOMAN_ADMIN_KEY in its environment sets another."
)
_ADMIN_KEY_WRONG = "Incorrect admin key provided."


def require_key(keyring: Keyring, *, throttle: Throttle | None = None) -> Guard:
    """Return the guard that puts the key's owner into `scope["user"]`, or answers 401 or 429."""
    brake = throttle or Throttle()

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        scope = connection.scope
        key = _key_of(scope)
        caller = keyring.cached(key)
        if caller is None:
            if not key:
                raise _refused(_REFUSALS["missing"], code="invalid_api_key")
            async with _slowed(brake, scope):
                caller = await _owner(keyring, key)
        scope["user"] = caller

    return guard


def require_admin(
    book: Book,
    pepper: bytes,
    *,
    throttle: Throttle | None = None,
    env: Mapping[str, str] = os.environ,
) -> Guard:
    """Return the guard that puts `ADMIN` into `scope["user"]`, or answers 401 or 429.

    The key that opened last is not held up by others at its address.
    """
    brake = throttle or Throttle()
    opened_last = b""

    async def check(key: str) -> None:
        expected = await admin_digest(book, pepper, env=env)
        if not is_admin(key, pepper, expected=expected) or parse(key):
            message = _why_no_admin(key, is_set=expected is not None)
            raise _refused(message, code="invalid_admin_key")

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
        nonlocal opened_last
        scope = connection.scope
        key = _key_of(scope)
        given = digest(key, pepper)
        if hmac.compare_digest(given, opened_last):
            await check(key)
        else:
            async with _slowed(brake, scope):
                await check(key)
            opened_last = given
        scope["user"] = ADMIN

    return guard


@asynccontextmanager
async def _slowed(throttle: Throttle, scope: Scope) -> AsyncIterator[None]:
    client = cast("HTTPScope", scope)["client"]
    try:
        async with throttle.attempt(client[0] if client else ""):
            yield
    except TooManyFailures as exc:
        raise BadRequest(
            "Too many requests with wrong keys came from your address. Try again in a second.",
            status=429,
            type="rate_limit_error",
            code="rate_limit_exceeded",
            headers={"retry-after": str(exc.retry_after_seconds)},
        ) from None


async def _owner(keyring: Keyring, key: str) -> Caller:
    try:
        return await keyring.authenticate(key)
    except InvalidKey as exc:
        message = _ADMIN_KEY_HERE if key.startswith(ADMIN_PREFIX) else _REFUSALS[exc.reason]
        raise _refused(message, code="invalid_api_key") from None


def _why_no_admin(key: str, *, is_set: bool) -> str:
    if not is_set:
        return _ADMIN_KEY_UNSET
    if not key:
        return _ADMIN_KEY_MISSING
    return _API_KEY_HERE if parse(key) else _ADMIN_KEY_WRONG


def _refused(message: str, *, code: str) -> Unauthenticated:
    # RFC 9110 §15.5.2: a 401 names the scheme to use.
    return Unauthenticated(message, code=code, headers={"www-authenticate": "Bearer"})


def _key_of(scope: Scope) -> str:
    """Return the key, wherever the client's dialect puts it: OpenAI's, Azure's, Anthropic's."""
    scheme, _, key = header(scope, b"authorization").partition(" ")
    if scheme.lower() == "bearer":
        return key.strip()
    return header(scope, b"api-key") or header(scope, b"x-api-key")
