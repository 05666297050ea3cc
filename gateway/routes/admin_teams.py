"""The admin API's teams."""

from __future__ import annotations

from typing import Any

from litestar import Request, get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from adapters.base import Json
from gateway.administration import Administration, describe_team
from gateway.book import Book
from gateway.routes.admin_schema import NEW_TEAM, TEAM_CHANGES
from gateway.routes.parameters import described, page, read_fields, read_query

_Request = Request[Any, Any, Any]
_Administration = NamedDependency[Administration]
_Book = NamedDependency[Book]


@post("/teams", operation_class=described(body=NEW_TEAM))
async def create_team(request: _Request, administration: _Administration) -> Json:
    """Begin a team, whose limits hold for all its keys together."""
    read_query(request)
    return await administration.create_team(await read_fields(request))


@get("/teams")
async def list_teams(request: _Request, book: _Book) -> Json:
    """List all teams."""
    read_query(request)
    return page([describe_team(team) for team in await book.list_teams()])


@get("/teams/{name:str}")
async def show_team(name: FromPath[str], request: _Request, book: _Book) -> Json:
    """Show a team."""
    read_query(request)
    return describe_team(await book.show_team(name))


@patch("/teams/{name:str}", operation_class=described(body=TEAM_CHANGES))
async def update_team(
    name: FromPath[str], request: _Request, administration: _Administration
) -> Json:
    """Change what is given, and leave the rest. A limit that is null is taken off."""
    read_query(request)
    return await administration.update_team(name, await read_fields(request))


HANDLERS = (create_team, list_teams, show_team, update_team)
