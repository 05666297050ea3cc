"""`POST /v1/explain`: what a request would become. Neither metered nor in the ledger."""

from __future__ import annotations

from typing import cast
from urllib.parse import parse_qs

from litestar.handlers import ASGIRouteHandler
from litestar.types import HTTPScope, Scope

from gateway.exchange import Exchange
from gateway.explanation import read_request
from gateway.requests import decode_body
from gateway.routes.front import Front
from gateway.upstreams.catalog import Catalog
from gateway.wire import read_json_body


def explain_route(front: Front, catalog: Catalog) -> ASGIRouteHandler:
    """Return the route. `front` has the explainer behind it."""

    def parse(scope: Scope, data: bytes) -> Exchange:
        sent = decode_body(data)
        asked = read_request(sent, scope["user"], catalog, route=_route(scope))
        return front.exchange(scope, asked.task, asked.body, form=asked.form, unheard=asked.unheard)

    return front.post("/explain", parse, read_json_body)


def _route(scope: Scope) -> str | None:
    """Return the route that the query names."""
    query = parse_qs(cast("HTTPScope", scope)["query_string"].decode("latin-1"))
    return query.get("route", [None])[0]
