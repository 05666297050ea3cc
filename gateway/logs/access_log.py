"""A line for each request: who asked for what, what became of it, what it used.

    {"time":"2030-01-31T12:00:00.123Z","level":"info","event":"request","id":"…","key":"…", …}

Neither prompts nor answers, unless `payloads` asks for them; no path but the template of a route,
no name of a model but a known one's: these are texts of the client's too.
"""

from __future__ import annotations

import asyncio
import sys
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

import msgspec

from gateway.access import Access
from gateway.config import Logs
from gateway.keys import Caller
from gateway.logs.diagnostics import is_for_people
from gateway.logs.lines import Lines
from gateway.logs.payloads import answer_excerpt, request_excerpt
from gateway.logs.scrubbing import escape, name_or_other
from gateway.times import iso_ms

if TYPE_CHECKING:
    from litestar.types import HTTPScope

    from gateway.exchange import Exchange
    from gateway.ledger import Record

_PROBED = frozenset(("/health", "/ready", "/metrics"))
_MOST_BYTES_OF_CHARACTER = 4  # in UTF-8
_encode = msgspec.json.Encoder().encode


class Line(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One request. Amounts as the ledger has them; what is empty, none or 0 is left out.

    `ms`: to the answer's last byte, `upstream_ms` of it were spent waiting for an upstream.
    `disconnected`: the client left before it had all. `request`, `answer`: with `payloads` only.
    """

    time: str
    level: str
    event: str
    id: str
    key: str = ""
    team: str | None = None
    method: str
    route: str = ""
    status: int
    code: str | None = None
    task: str = ""
    model: str = ""
    upstream: str = ""
    target: str = ""
    stream: bool = False
    ms: float
    upstream_ms: int = 0
    first_token_ms: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    characters: int = 0
    audio_ms: int = 0
    nano_usd: int = 0
    estimated: bool = False
    cache: str = ""
    cached: bool = False
    finish: str | None = None
    retries: int = 0
    degraded: bool = False
    disconnected: bool = False
    bytes: int
    client: str = ""
    trace_id: str = ""
    request: str = ""
    answer: str = ""


class _Dropped(msgspec.Struct, frozen=True):
    """How many lines nobody had read in time."""

    time: str
    level: str
    event: str
    lines: int


class AccessLog:
    """Tells standard output of each request; of probes only if they fail.

    Entered as a context, it writes what waits when the context is left. `lines.dropped` counts
    what a reader was too slow for.
    """

    def __init__(self, settings: Logs, *, fd: int | None = None) -> None:
        fd = sys.stdout.fileno() if fd is None else fd
        is_text = is_for_people(settings.format, fd)
        self._render = _render_text if is_text else _render_json
        self._payload_chars = settings.payload_chars if settings.payloads else 0
        self.lines = Lines(fd, tell=_dropped_as_text if is_text else _dropped_as_json)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.lines.close)

    def began(self, access: Access, scope: HTTPScope) -> None:
        """Have the beginning of the answer kept, if it is to be told."""
        if self._payload_chars:
            access.excerpt = bytearray()
            access.excerpt_bytes = self._payload_chars * _MOST_BYTES_OF_CHARACTER

    def ended(self, access: Access, scope: HTTPScope) -> None:
        """Tell of it."""
        if access.route in _PROBED and access.status == HTTPStatus.OK:
            return
        line = _line_of(access, scope)
        if exchange := access.exchange:
            _add_exchange(line, exchange)
            if self._payload_chars:
                line.request = request_excerpt(exchange.body, self._payload_chars)
                line.answer = answer_excerpt(bytes(access.excerpt or b""), self._payload_chars)
        self.lines.put(self._render(line))


def _line_of(access: Access, scope: HTTPScope) -> Line:
    status = access.status
    line = Line(
        time=_now(),
        level="error" if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "info",
        event="request",
        id=access.id,
        method=access.method,
        route=access.route,
        status=status,
        code=access.code,
        ms=round(access.seconds * 1000, 1),
        disconnected=not access.is_complete,
        bytes=access.sent_bytes,
    )
    match scope.get("user"):
        case Caller() as caller:
            line.key, line.team = caller.id, caller.team
        case str() as name:
            line.key = name
    if access.trace:
        line.trace_id = access.trace[0][1][3:35]
    return line


def _add_exchange(line: Line, exchange: Exchange) -> None:
    line.task = exchange.task
    line.stream = exchange.is_stream
    line.upstream_ms = int(exchange.upstream_ms)
    line.first_token_ms = exchange.first_token_ms
    line.retries = exchange.retries
    line.degraded = exchange.is_degraded
    line.client = exchange.client
    if route := exchange.route:
        line.model, line.target = route.model.id, route.target.model
        line.upstream = route.target.upstream.name
    if found := exchange.found:
        line.cache = found.status
    if exchange.record:
        _add_record(line, exchange.record)
    line.code = name_or_other(line.code)


def _add_record(line: Line, record: Record) -> None:
    """Add what the ledger has."""
    line.input_tokens = record.input_tokens
    line.output_tokens = record.output_tokens
    line.images = record.images
    line.characters = record.characters
    line.audio_ms = record.audio_ms
    line.nano_usd = record.nano_usd
    line.estimated = record.estimated
    line.cached = record.cached
    if record.status == "error":
        line.code = line.code or name_or_other(record.finish)
        line.level = "error" if line.status == HTTPStatus.OK else line.level
    elif record.status == "disconnected":
        line.disconnected = True
    else:
        line.finish = name_or_other(record.finish)


def _now() -> str:
    return iso_ms(time.time_ns() // 1_000_000)


def _render_json(line: Line) -> bytes:
    return _encode(line) + b"\n"


def _render_text(line: Line) -> bytes:
    parts = [
        line.time,
        f"{line.status} {line.method} {line.route or '?'}",
        f"{line.ms:.0f} ms",
        line.code,
        line.key and f"{line.key}{f'/{line.team}' if line.team else ''}",
        line.model and f"{line.model} at {line.upstream}",
        line.input_tokens + line.output_tokens
        and f"{line.input_tokens}+{line.output_tokens} tokens",
        line.cache in ("hit", "shared") and line.cache,
        line.disconnected and "client left",
        line.request and f"request {line.request}",
        line.answer and f"answer {line.answer}",
    ]
    text = "  ".join(str(part) for part in parts if part)
    return escape(text).encode(errors="backslashreplace") + b"\n"


def _dropped_as_json(count: int) -> bytes:
    return _encode(_Dropped(_now(), "warning", "dropped", count)) + b"\n"


def _dropped_as_text(count: int) -> bytes:
    return f"{_now()}  {count} lines were dropped: nobody has read them\n".encode()
