"""Routes for those who run the gateway: no key needed, nothing told about anybody's use."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from litestar import Request, Response, Router, get

from adapters.base import Json
from gateway import __version__


def ops_router(missing: Callable[[], Awaitable[list[str]]]) -> Router:
    """Return `/`, `/health`, `/ready` and `/openapi.json`.

    `missing` names what the gateway still waits for.
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
        }

    @get("/health")
    async def health() -> Json:
        """Tell that the process is alive."""
        return {"status": "ok", "version": __version__}

    @get("/ready")
    async def ready() -> Response[Json]:
        """Tell whether requests can be served; 503 names what is missing."""
        lacking = await missing()
        status = "waiting" if lacking else "ready"
        return Response({"status": status, "missing": lacking}, status_code=503 if lacking else 200)

    @get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return request.app.openapi_schema.to_schema()

    return Router("/", route_handlers=[index, health, ready, openapi])
