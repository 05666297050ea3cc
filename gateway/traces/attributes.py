"""What spans say: OpenTelemetry's conventions for HTTP and for generative AI.

What these have no name for is below `dragoman`. Nothing holds a prompt or an answer, or a name
that a client could invent.

Source: https://github.com/open-telemetry/semantic-conventions-genai, docs/gen-ai.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from gateway.access import Access
from gateway.exchange import Exchange, Route
from gateway.logs.scrubbing import name_or_other
from gateway.operations import operation_of

_OUTPUTS = {"image": "image", "speech": "speech"}

Attributes = dict[str, Any]
"""Those that are None are left out."""


def span_name(exchange: Exchange, model: str | None) -> str:
    """Return the name of what is done, and with which model, if that is known."""
    operation = operation_of(exchange.task)
    return f"{operation} {model}" if model else operation


def of_request(access: Access, exchange: Exchange) -> Attributes:
    """Return what was asked, of whom, and what it took."""
    route, record, found = exchange.route, exchange.record, exchange.found
    told: Attributes = {
        "error.type": error_of(access, exchange),
        "http.request.method": access.method,
        "http.route": access.route or None,
        "http.response.status_code": access.status or None,
        "http.response.body.size": access.sent_bytes,
        "gen_ai.operation.name": operation_of(exchange.task),
        "gen_ai.output.type": _OUTPUTS.get(exchange.task),
        "gen_ai.request.stream": exchange.is_stream,
        "dragoman.request.id": access.id,
        "dragoman.key.id": exchange.caller.id,
        "dragoman.team": exchange.caller.team,
        "dragoman.cache": found.status if found else None,
        "dragoman.degraded": exchange.is_degraded or None,
        "dragoman.retries": exchange.retries or None,
    }
    if route:
        told["gen_ai.request.model"] = route.model.id
        told["gen_ai.response.model"] = route.target.model
        told["gen_ai.provider.name"] = route.target.upstream.name
    if exchange.first_token_ms is not None:
        told["gen_ai.response.time_to_first_chunk"] = exchange.first_token_ms / 1000
    if record:
        told["gen_ai.usage.input_tokens"] = record.input_tokens
        told["gen_ai.usage.output_tokens"] = record.output_tokens
        told["dragoman.cost.nano_usd"] = record.nano_usd
        if record.status == "ok" and record.finish:
            told["gen_ai.response.finish_reasons"] = [name_or_other(record.finish)]
    return told


def of_upstream(access: Access, exchange: Exchange, route: Route) -> Attributes:
    """Return what an upstream was asked, and which."""
    upstream = route.target.upstream
    return {
        "error.type": error_of(access, exchange),
        "gen_ai.operation.name": operation_of(exchange.task),
        "gen_ai.provider.name": upstream.name,
        "gen_ai.request.model": route.target.model,
        "gen_ai.request.stream": exchange.is_stream,
        "server.address": upstream.server.host,
        "http.request.resend_count": exchange.retries or None,
    }


def error_of(access: Access, exchange: Exchange) -> str | None:
    """Return the code of what went wrong, or else the status."""
    record = exchange.record
    if record and record.status in ("error", "disconnected"):
        return name_or_other(record.finish) or "_OTHER"
    if access.code:
        return name_or_other(access.code)
    return str(access.status) if access.status >= HTTPStatus.BAD_REQUEST else None
