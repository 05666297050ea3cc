"""The admin API: keys, teams, the audit log, usage and models, all behind the admin key."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from litestar import Request, Response, Router
from litestar.di import Provide
from litestar.types import Guard

from gateway.administration import Administration
from gateway.book import Book, TeamExists, UnknownKey, UnknownTeam
from gateway.doorman import ADMIN
from gateway.errors import BadRequest, GatewayError
from gateway.fields import InvalidField, model_names
from gateway.keys import digest
from gateway.routes import admin_keys, admin_models, admin_teams, admin_usage
from gateway.upstreams.catalog import Catalog
from gateway.wire import ClientGone

T = TypeVar("T")


def admin_router(book: Book, pepper: bytes, *, catalog: Catalog, guard: Guard) -> Router:
    """Return the router of `/admin`; `guard` lets the operator in."""
    administration = Administration(
        book,
        partial(digest, pepper=pepper),
        models=model_names(catalog.models),
        actor=ADMIN,
        with_hub=catalog.hub is not None,
    )
    return Router(
        "/admin",
        guards=[guard],
        route_handlers=[
            *admin_keys.HANDLERS,
            *admin_teams.HANDLERS,
            *admin_usage.HANDLERS,
            *admin_models.HANDLERS,
        ],
        dependencies={
            "administration": _always(administration),
            "book": _always(book),
            "catalog": _always(catalog),
        },
        exception_handlers={
            InvalidField: _answer_invalid_field,
            UnknownKey: _answering(404, "key_not_found"),
            UnknownTeam: _answering(404, "team_not_found"),
            TeamExists: _answering(409, "team_exists", param="name"),
            ClientGone: _answering(400, "client_gone"),
        },
        before_request=_check_path,
        tags=["admin"],
    )


async def _check_path(request: Request[Any, Any, Any]) -> None:
    """Raise UnknownKey or UnknownTeam for what no database can be asked for."""
    unknown = {"key_id": UnknownKey, "name": UnknownTeam}
    for name, value in request.path_params.items():
        if not value.isprintable():
            raise unknown[name](value)


def _always(value: T) -> Provide:
    return Provide(lambda: value, sync_to_thread=False)


def _answer_invalid_field(_: Request[Any, Any, Any], error: InvalidField) -> Response[bytes]:
    status = 409 if error.code == "key_revoked" else 400
    message = f"Invalid value for {error.field!r}: {error.problem}."
    return _answer(BadRequest(message, status=status, code=error.code, param=error.field))


def _answering(
    status: int, code: str, *, param: str | None = None
) -> Callable[[Request[Any, Any, Any], Exception], Response[bytes]]:
    """Return the handler that puts the error's own sentence into the envelope."""

    def answer(_: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        message = str(error)
        sentence = f"{message[:1].upper()}{message[1:]}."
        return _answer(BadRequest(sentence, status=status, code=code, param=param))

    return answer


def _answer(error: GatewayError) -> Response[bytes]:
    return Response(error.body(), status_code=error.status, media_type="application/json")
