"""Spans by OpenTelemetry: one for each request to a model, one in it for the upstream's part."""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from gateway import __version__
from gateway.access import Access
from gateway.traces.attributes import Attributes, of_request, of_upstream, span_name
from gateway.traces.context import SAMPLED, TraceContext, parse

if TYPE_CHECKING:
    from litestar.types import HTTPScope
    from opentelemetry.context import Context

    from gateway.exchange import Exchange

_PLACE = "dragoman.trace"  # of a request's `_Place` in its scope
_LAST_SPANS_SECONDS = 2.0
_MOST_WAITING = 4096  # spans; a batch has up to 512


class _Place:
    """Where a request stands in its trace: ids of spans that are made when it has ended.

    `upstream`: of the span for the upstream's part, which upstreams are told.
    """

    __slots__ = ("flags", "parent", "server", "state", "trace_id", "upstream")

    def __init__(self, parent: TraceContext | None) -> None:
        drawn = secrets.token_bytes(32)  # at once: it is a system call
        self.parent = parent
        self.trace_id = int(parent.trace_id, 16) if parent else int.from_bytes(drawn[:16]) or 1
        self.server = int.from_bytes(drawn[16:24]) or 1
        self.upstream = int.from_bytes(drawn[24:]) or 1
        self.state = parent.state if parent else ""
        self.flags = 0

    def told(self) -> TraceContext:
        """Return what upstreams are told."""
        return TraceContext(
            f"{self.trace_id:032x}", f"{self.upstream:016x}", self.flags, self.state
        )

    def outside(self) -> Context | None:
        """Return what the request's own span is a part of."""
        if self.parent is None:
            return None
        return self._inside(int(self.parent.span_id, 16), self.parent.flags, is_remote=True)

    def inside(self) -> Context:
        """Return what the upstream's span is a part of."""
        return self._inside(self.server, self.flags, is_remote=False)

    def _inside(self, span_id: int, flags: int, *, is_remote: bool) -> Context:
        state = TraceState.from_header([self.state]) if self.state else None
        context = SpanContext(self.trace_id, span_id, is_remote, TraceFlags(flags), state)
        return set_span_in_context(NonRecordingSpan(context))


class _Ids(IdGenerator):
    """Gives the spans that are made the ids that upstreams were told already."""

    trace_id = span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id


class Spans:
    """Makes the spans of each request, and sends them by `exporter` in a thread of its own.

    `share`: of the traces that begin here; those that began elsewhere are as their caller wants.
    An exporter that fails costs its spans, nothing else.
    """

    def __init__(self, exporter: SpanExporter, *, share: float) -> None:
        self._ids = _Ids()
        self._sampler = ParentBased(TraceIdRatioBased(share))
        provider = TracerProvider(
            sampler=self._sampler,
            resource=_resource(),
            id_generator=self._ids,
            shutdown_on_exit=False,  # which may take half a minute
        )
        self._processor = BatchSpanProcessor(exporter, max_queue_size=_MOST_WAITING)
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("dragoman", __version__)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Send what waits, unless that takes long."""
        ending = threading.Thread(target=self._processor.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, _LAST_SPANS_SECONDS)

    def began(self, access: Access, scope: HTTPScope) -> None:
        """Give the request its place in its trace, or in a new one."""
        place = _Place(parse(scope["headers"]))
        sampled = self._sampler.should_sample(place.outside(), place.trace_id, "")
        place.flags = SAMPLED if sampled.decision is Decision.RECORD_AND_SAMPLE else 0
        access.trace = place.told().headers()
        scope[_PLACE] = place  # type: ignore[literal-required]

    def ended(self, access: Access, scope: HTTPScope) -> None:
        """Make its spans, if it asked anything of a model."""
        place: _Place = scope[_PLACE]  # type: ignore[literal-required]
        exchange = access.exchange
        if exchange is None or not place.flags & SAMPLED:
            return
        until_ns = time.time_ns()
        since_ns = until_ns - int(access.seconds * 1e9)
        route = exchange.route
        self._ids.trace_id, self._ids.span_id = place.trace_id, place.server
        self._make(
            span_name(exchange, route.model.id if route else None),
            SpanKind.SERVER,
            of_request(access, exchange),
            parent=place.outside(),
            times_ns=(since_ns, until_ns),
            # Of a 4xx the client is to blame.
            may_fail=not HTTPStatus.BAD_REQUEST <= access.status < 500,
        )
        if exchange.upstream_ms and route:
            self._ids.span_id = place.upstream
            self._make(
                span_name(exchange, route.target.model),
                SpanKind.CLIENT,
                of_upstream(access, exchange, route),
                parent=place.inside(),
                times_ns=(since_ns + _ns_until_upstream(access, exchange), until_ns),
            )

    def _make(
        self,
        name: str,
        kind: SpanKind,
        attributes: Attributes,
        *,
        parent: Context | None,
        times_ns: tuple[int, int],
        may_fail: bool = True,
    ) -> None:
        since_ns, until_ns = times_ns
        told = {key: value for key, value in attributes.items() if value is not None}
        span = self._tracer.start_span(name, parent, kind, told, start_time=since_ns)
        if may_fail and "error.type" in told:
            span.set_status(Status(StatusCode.ERROR))
        span.end(until_ns)


def exporter(url: str | None) -> SpanExporter:
    """Return what sends spans by OTLP over HTTP to `url`, or where the environment says."""
    return OTLPSpanExporter(endpoint=url)


def _resource() -> Resource:
    """Return who sends the spans; OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES go before."""
    ours: Attributes = {
        "service.name": "dragoman",
        "service.version": __version__,
        "process.pid": os.getpid(),
    }
    return Resource(ours).merge(OTELResourceDetector().detect())


def _ns_until_upstream(access: Access, exchange: Exchange) -> int:
    """Return how long after its beginning the request went to an upstream.

    Known is how long was waited: for a whole answer until about the end, for a stream until its
    first piece.
    """
    until_ms = access.seconds * 1000
    if exchange.first_token_ms is not None:
        until_ms = (exchange.began - access.began) * 1000 + exchange.first_token_ms
    return int(max(0.0, until_ms - exchange.upstream_ms) * 1e6)
