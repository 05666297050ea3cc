"""The admin API's usage report and audit log."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.types import ASGIApp, Receive, Scope, Send

from adapters.base import Json
from gateway.administration import describe_change
from gateway.book import GROUPS, Book
from gateway.fields import model_id, parse_name
from gateway.routes.parameters import Parameter, count, described, page, read_query
from gateway.times import parse_moment
from gateway.upstreams.catalog import Catalog
from gateway.usage_report import ask, parse_by, render_csv, render_json
from gateway.wire import Presence

_Request = Request[Any, Any, Any]

_FORMATS = {"json": "application/json", "csv": "text/csv; charset=utf-8"}


def _moment(text: str) -> datetime:
    return parse_moment(text, datetime.now(UTC))


def _format(text: str) -> str:
    if text not in _FORMATS:
        raise ValueError(f"expected one of {', '.join(_FORMATS)}, got {text[:60]!r}")
    return text


_USAGE = (
    Parameter("key", "Use of the key with this id.", parse_name),
    Parameter("team", "Use of this team.", parse_name),
    Parameter("model", "Use of the model with this id or alias.", parse_name),
    Parameter("since", "From this time on: ISO 8601, or a duration before now as 7d.", _moment),
    Parameter("until", "Up to this time, which is not part of it.", _moment),
    Parameter("by", f"Sums by some of {','.join(GROUPS)}; else every record.", parse_by),
    Parameter("format", "json or csv.", _format, "json", {"type": "string", "enum": [*_FORMATS]}),
)
_AUDIT = (
    Parameter("subject", "Changes of the key with this id, or of this team.", parse_name),
    count("after", "Those before the change with this id.", most=2**62),
    count("limit", "At most so many.", most=1000, default=100),
)


class Export(Response[bytes]):
    """An answer of any length, made while it is sent. When the client leaves, the making ends."""

    def __init__(self, parts: AsyncGenerator[bytes, None], *, media_type: str) -> None:
        super().__init__(b"", media_type=media_type)
        self._parts = parts

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIApp:  # type: ignore[override]
        """Return what sends it. Litestar's own stream would leave the parts unclosed."""
        return self._send

    async def _send(self, _: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", str(self.media_type).encode())]
        with Presence(receive):
            async with aclosing(self._parts) as parts:
                # Before the status: a book that does not answer is a 503.
                first = await anext(parts)
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": first, "more_body": True})
                async for part in parts:
                    await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


@get("/usage", operation_class=described(query=_USAGE))
async def show_usage(
    request: _Request, book: NamedDependency[Book], catalog: NamedDependency[Catalog]
) -> Export:
    """Report what was used: every record, or sums. As long as the ledger is."""
    asked = read_query(request, _USAGE)
    as_csv = asked.pop("format") == "csv"
    asked["model"] = model_id(asked["model"], catalog.models)
    report = await ask(book, **asked)
    if as_csv:
        return Export(render_csv(report), media_type=_FORMATS["csv"])
    parts = render_json(report, head=b'{"object":"list","data":', tail=b"}")
    return Export(parts, media_type=_FORMATS["json"])


@get("/audit", operation_class=described(query=_AUDIT))
async def list_changes(request: _Request, book: NamedDependency[Book]) -> Json:
    """List who changed what, the newest change first."""
    asked = read_query(request, _AUDIT)
    limit = asked.pop("limit")
    changes = await book.audit(**asked, limit=limit + 1)
    return page([describe_change(change) for change in changes], limit)


HANDLERS = (show_usage, list_changes)
