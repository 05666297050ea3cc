"""The admin API's keys."""

from __future__ import annotations

from typing import Any

from litestar import Request, delete, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from adapters.base import Json
from gateway.administration import DEFAULT_GRACE_SECONDS, Administration, check_grace
from gateway.book import Book
from gateway.fields import check_fields, parse_name
from gateway.routes.admin_schema import KEY_CHANGES, NEW_KEY, NOTHING, ROTATION
from gateway.routes.parameters import (
    Parameter,
    count,
    described,
    page,
    read_fields,
    read_query,
)

_Request = Request[Any, Any, Any]
_Administration = NamedDependency[Administration]
_Book = NamedDependency[Book]

_LISTING = (
    Parameter("team", "Keys of this team only.", parse_name),
    count("limit", "At most so many.", most=1000, default=100),
    Parameter("after", "Those that follow the key with this id.", parse_name),
)


@post("/keys", operation_class=described(body=NEW_KEY))
async def create_key(request: _Request, administration: _Administration) -> Json:
    """Make a key. Its text is the answer's `key`, this once."""
    read_query(request)
    return await administration.create_key(await read_fields(request))


@get("/keys", operation_class=described(query=_LISTING))
async def list_keys(request: _Request, book: _Book, administration: _Administration) -> Json:
    """List keys, the oldest first."""
    asked = read_query(request, _LISTING)
    if asked["team"]:
        await book.show_team(asked["team"])
    limit = asked.pop("limit")
    keys = await book.list_keys(**asked, limit=limit + 1)
    return page([administration.describe_key(key) for key in keys], limit)


@get("/keys/{key_id:str}")
async def show_key(
    key_id: FromPath[str], request: _Request, book: _Book, administration: _Administration
) -> Json:
    """Show a key, without its text."""
    read_query(request)
    return administration.describe_key(await book.show_key(key_id))


@patch("/keys/{key_id:str}", operation_class=described(body=KEY_CHANGES))
async def update_key(
    key_id: FromPath[str], request: _Request, administration: _Administration
) -> Json:
    """Change what is given, and leave the rest. A limit that is null is taken off."""
    read_query(request)
    return await administration.update_key(key_id, await read_fields(request))


@post("/keys/{key_id:str}/rotate", status_code=200, operation_class=described(body=ROTATION))
async def rotate_key(
    key_id: FromPath[str], request: _Request, administration: _Administration
) -> Json:
    """Give a key a new text, the answer's `key`. The old one is good for `grace_seconds` yet."""
    read_query(request)
    given = check_fields(await read_fields(request), {"grace_seconds": check_grace})
    grace_seconds = given.get("grace_seconds", DEFAULT_GRACE_SECONDS)
    return await administration.rotate_key(key_id, grace_seconds=grace_seconds)


@post("/keys/{key_id:str}/revoke", status_code=200, operation_class=described(body=NOTHING))
async def revoke_key(
    key_id: FromPath[str], request: _Request, book: _Book, administration: _Administration
) -> Json:
    """Refuse a key from now on, everywhere within a second. It stays in the book."""
    read_query(request)
    check_fields(await read_fields(request), {})
    await administration.revoke_key(key_id)
    return administration.describe_key(await book.show_key(key_id))


@delete("/keys/{key_id:str}", status_code=200)
async def delete_key(
    key_id: FromPath[str], request: _Request, book: _Book, administration: _Administration
) -> Json:
    """Revoke a key, as `POST …/revoke` does."""
    read_query(request)
    await administration.revoke_key(key_id)
    return administration.describe_key(await book.show_key(key_id))


HANDLERS = (create_key, list_keys, show_key, update_key, rotate_key, revoke_key, delete_key)
