"""`/v1/responses`: answers are made there, and never kept."""

from __future__ import annotations

from typing import Any, NoReturn

from litestar import Request, Response, Router, get, post, route
from litestar.params import FromPath
from litestar.types import Scope

from adapters.base import Task
from gateway.errors import BadRequest, GatewayError
from gateway.exchange import Exchange
from gateway.responses.refusals import in_own_words
from gateway.responses.request import parse_responses
from gateway.routes.front import Front
from gateway.wire import read_json_body


def responses_router(front: Front) -> Router:
    """Return the router, which stands behind the key of the one around it."""

    def parse(scope: Scope, data: bytes) -> Exchange:
        asked = parse_responses(data)
        return front.exchange(scope, Task.CHAT, asked.body, form=asked.form, unheard=asked.unheard)

    return Router(
        "/responses",
        route_handlers=[
            front.post("/", parse, read_json_body),
            show_or_delete_response,
            list_input_items,
            cancel_response,
        ],
        exception_handlers={GatewayError: _answer_error},
    )


@route("/{response_id:str}", http_method=["GET", "DELETE"])
async def show_or_delete_response(response_id: FromPath[str]) -> None:
    """Say that no response is stored."""
    _not_stored(response_id)


@get("/{response_id:str}/input_items")
async def list_input_items(response_id: FromPath[str]) -> None:
    """Say that no response is stored."""
    _not_stored(response_id)


@post("/{response_id:str}/cancel")
async def cancel_response(response_id: FromPath[str]) -> None:
    """Say that no response is stored."""
    _not_stored(response_id)


def _not_stored(response_id: str) -> NoReturn:
    raise BadRequest(
        f"Response with id {response_id[:200]!r} not found: this gateway stores no responses.",
        status=404,
        code="response_not_found",
        param="response_id",
    )


def _answer_error(_: Request[Any, Any, Any], error: GatewayError) -> Response[bytes]:
    error = in_own_words(error)
    return Response(
        error.body(),
        status_code=error.status,
        media_type="application/json",
        headers=error.headers,
    )
