"""The application: what is wired to what, from start to end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from litestar import Litestar, Response, Router
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.types import ControllerRouterHandler, LifespanHook

from adapters.transport import Transport
from gateway import __version__
from gateway.book import Book
from gateway.cache.cache import Cache, NoCache
from gateway.cache.files import FOLDER as ANSWERS
from gateway.cache.files import AnswerFiles
from gateway.config import Settings
from gateway.departure import Departure
from gateway.doorman import require_admin
from gateway.edge import Edge
from gateway.explanation import Explainer
from gateway.image_files import ImageFiles
from gateway.keyring import Keyring
from gateway.logs.access_log import AccessLog
from gateway.metering import Meter, Unmetered
from gateway.metrics.metrics import Metrics
from gateway.native.task import BothFaces
from gateway.native.tokens import Tokenize
from gateway.readiness import Readiness
from gateway.relay import Relay
from gateway.routes.admin import admin_router
from gateway.routes.explain import explain_route
from gateway.routes.failures import FAILURES
from gateway.routes.files import files_route
from gateway.routes.front import Front
from gateway.routes.native import native_router
from gateway.routes.openai import openai_router
from gateway.routes.ops import ops_router
from gateway.routes.schema import describe_routes
from gateway.routes.usage import usage_route
from gateway.spool import FOLDER as SPOOL
from gateway.spool import Spool
from gateway.store import Stores
from gateway.tasks.tasks import Tasks
from gateway.traces.tracer import tracer
from gateway.upstreams.catalog import Catalog
from gateway.upstreams.coldstart import alone
from gateway.upstreams.probes import Probes
from gateway.upstreams.shared_watch import shared_in


def create_app(
    settings: Settings,
    *,
    book: Book,
    pepper: bytes,
    stores: Stores | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    data_dir: Path | None = None,
    departure: Departure | None = None,
    loads_first: bool = False,
    metrics: Metrics | None = None,
    log: AccessLog | None = None,
) -> Litestar:
    """Return the gateway over an open book.

    `transport` reaches the upstreams; it and `stores` are closed at the end. `data_dir` keeps
    images that are asked for by address, and settlements that the state store does not take.
    Without it such images are refused; without it or without stores nothing is metered. Without
    stores nothing is cached, without `data_dir` nothing large. `departure` tells whether the end
    has begun. `loads_first`: the start takes until all templates are loaded. `metrics`: whom
    `stores` tell of their work already, if not one of its own. `log` is told of every request,
    and closed at the end.

    Raises ConfigError when a credential that the settings name is not there.
    """
    transport = transport or Transport()
    keyring = Keyring(book, pepper)
    meter = _meter(settings, stores, data_dir)
    cache = _cache(settings, stores, data_dir)
    watches = shared_in(stores.cache) if stores else alone
    metrics = metrics or Metrics(settings)
    traces = tracer(settings.traces)
    catalog = Catalog(settings, transport, watches=watches, watcher=metrics.calls)
    probes = Probes(target for model in catalog.models for target in model.targets)
    metrics.follow(catalog, lambda: cache.troubles)
    if stores:
        metrics.follow_stores(stores, book, data_dir and data_dir / SPOOL)
    if log:
        metrics.count_growth("dragoman_log_lines_dropped_total", lambda: {"": log.lines.dropped})
    files = ImageFiles(data_dir / "images") if data_dir else None
    tasks = Tasks(catalog.models, settings, files)
    shelves = tasks.templates, tasks.tokenizers
    relay = Relay(
        catalog, cache, meter, BothFaces(tasks, *shelves), attempts=settings.retries.attempts
    )
    readiness = Readiness(
        shelves=tasks.shelves,
        stores=stores,
        departure=departure,
        needs_state=settings.store.on_state_outage == "closed",
    )
    front = partial(
        Front,
        max_body_bytes=settings.server.max_body_bytes,
        keep_alive_seconds=settings.server.keep_alive_seconds,
        with_addresses=settings.ledger.client_address,
    )
    both_faces = front(relay)
    explain = explain_route(front(Explainer(catalog, tasks, settings)), catalog)
    app = _litestar(
        openai_router(
            both_faces, catalog, keyring, usage_route(stores.state if stores else None), explain
        ),
        native_router(both_faces, catalog, keyring, Tokenize(*shelves)),
        admin_router(book, pepper, catalog=catalog, guard=require_admin(book, pepper)),
        files_route(files),
        ops_router(readiness.look, metrics.render),
        on_startup=[tasks.loaded] * loads_first,
        lifespan=_lifespan(
            *(transport, log, traces, stores, metrics, keyring),
            *(tasks, catalog.hub, meter, cache, probes),
        ),
        max_body_bytes=settings.server.max_body_bytes,
    )
    app.asgi_handler = Edge(app.asgi_handler, [traces, metrics.requests, *([log] if log else [])])
    return app


def _meter(settings: Settings, stores: Stores | None, data_dir: Path | None) -> Meter | Unmetered:
    if stores is None or data_dir is None:
        return Unmetered()
    return Meter(
        stores.state,
        Spool(data_dir / SPOOL),
        policy=settings.store.on_state_outage,
        on_abandon=settings.ledger.on_abandon,
        workers=settings.all_workers,
    )


def _cache(settings: Settings, stores: Stores | None, data_dir: Path | None) -> Cache | NoCache:
    if stores is None:
        return NoCache()
    files, limit_bytes = None, int(settings.cache.files_mb * 1024 * 1024)
    if data_dir is not None and limit_bytes:
        files = AnswerFiles(data_dir / ANSWERS, limit_bytes=limit_bytes)
    return Cache(settings.cache, stores, files)


def _litestar(
    *routes: ControllerRouterHandler,
    on_startup: Sequence[LifespanHook],
    lifespan: Callable[[Litestar], AbstractAsyncContextManager[None]],
    max_body_bytes: int,
) -> Litestar:
    app = Litestar(
        route_handlers=routes,
        on_startup=on_startup,
        lifespan=[lifespan],
        exception_handlers=dict(FAILURES),
        openapi_config=OpenAPIConfig(
            title="Dragoman",
            version=__version__,
            openapi_router=Router(
                "/docs", route_handlers=[], include_in_schema=False, after_request=_refuse_page
            ),
            render_plugins=[SwaggerRenderPlugin(path="/")],
        ),
        logging_config=None,
        request_max_body_size=max_body_bytes,
    )
    describe_routes(app.openapi_schema)
    return app


def _refuse_page(answer: Response[Any]) -> Response[Any]:
    """Turn the page that Litestar has for what is not under `/docs` into our own 404."""
    if answer.status_code == 404:
        raise NotFoundException
    return answer


def _lifespan(
    transport: httpx.AsyncBaseTransport, *owned: AbstractAsyncContextManager[Any] | None
) -> Callable[[Litestar], AbstractAsyncContextManager[None]]:
    """Return what opens all that the application owns, and closes it in reverse order."""

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        async with AsyncExitStack() as closing:
            closing.push_async_callback(transport.aclose)
            for one in owned:
                if one:
                    await closing.enter_async_context(one)
            yield

    return lifespan
