"""What becomes of requests that fail: errors of every kind in the envelope of their API."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from litestar import Request, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException, NotFoundException
from litestar.types import ExceptionHandler

from gateway.access import ACCESS
from gateway.book import BookUnavailable
from gateway.errors import BadRequest, GatewayError
from gateway.native.address import FACE
from gateway.native.errors import native_body

logger = logging.getLogger(__name__)


def _answer_gateway_error(request: Request[Any, Any, Any], error: GatewayError) -> Response[bytes]:
    request.scope[ACCESS].code = error.code  # type: ignore[literal-required]
    return Response(
        native_body(error) if FACE.match(request.scope["raw_path"]) else error.body(),
        status_code=error.status,
        media_type="application/json",
        headers=error.headers,
    )


def _answer_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Put what Litestar itself refuses into the envelope."""
    place = f"{request.method} {request.url.path[:200]}"
    match error:
        case NotFoundException():
            message, code = f"Unknown request URL: {place}.", "unknown_url"
        case MethodNotAllowedException():
            message, code = f"Method not allowed: {place}.", "method_not_allowed"
        case _:
            message, code = error.detail or "The request was refused.", "invalid_request"
    kind = BadRequest if error.status_code < 500 else GatewayError
    answer = kind(message, status=error.status_code, code=code, headers=error.headers)
    return _answer_gateway_error(request, answer)


def _answer_book_error(request: Request[Any, Any, Any], error: BookUnavailable) -> Response[bytes]:
    logger.error("the book is unavailable: %s", error)
    answer = GatewayError(
        "The gateway cannot check keys at the moment.",
        status=503,
        code="book_unavailable",
        headers={"retry-after": "1"},
    )
    return _answer_gateway_error(request, answer)


def _answer_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer what nobody foresaw; the log has the rest."""
    logger.error("unforeseen %s", type(error).__name__, exc_info=error)
    return _answer_gateway_error(
        request, GatewayError("The gateway failed.", code="internal_error")
    )


FAILURES: Mapping[int | type[Exception], ExceptionHandler[Any]] = MappingProxyType(
    {
        GatewayError: _answer_gateway_error,
        HTTPException: _answer_http_error,
        BookUnavailable: _answer_book_error,
        Exception: _answer_bug,
    }
)
"""Who answers what is raised below."""
