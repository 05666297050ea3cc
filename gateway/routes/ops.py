"""Routes for those who run the gateway: no key needed, nothing told about anybody's use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request, Response, Router, get

from adapters.base import Json
from gateway import __version__


def ops_router(
    look: Callable[[], Awaitable[tuple[bool, list[str]]]],
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]],
) -> Router:
    """Return `/`, `/health`, `/ready`, `/metrics` and `/openapi.json`.

    `look` tells whether requests are served, and what is missing. `metrics` returns the text that
    a request's `Accept` asks for, and its content type.
    """

    @get("/")
    async def index() -> Json:
        """Say what this is and where to read on."""
        return {
            "name": "dragoman",
            "version": __version__,
            "base_url": "/v1",
            "docs": "/docs",
            "health": "/health",
            "ready": "/ready",
            "metrics": "/metrics",
        }

    @get("/health")
    async def health() -> Json:
        """Tell that the process is alive."""
        return {"status": "ok", "version": __version__}

    @get("/ready")
    async def ready() -> Response[Json]:
        """Tell whether requests are served (503 if not), and what is missing."""
        can_serve, missing = await look()
        if not can_serve:
            return Response({"status": "waiting", "missing": missing}, status_code=503)
        return Response({"status": "degraded" if missing else "ready", "missing": missing})

    @get("/metrics", media_type="text/plain")
    async def tell_metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
        """Tell Prometheus what all workers of this gateway have counted."""
        text, content_type = await metrics(request.headers.get("accept", ""))
        return Response(text, headers={"content-type": content_type})

    @get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return request.app.openapi_schema.to_schema()

    return Router("/", route_handlers=[index, health, ready, tell_metrics, openapi])
