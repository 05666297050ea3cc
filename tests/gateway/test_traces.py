"""Spans reach a collector, and upstreams are told of them; without an endpoint there are none."""

from __future__ import annotations

import asyncio
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from gateway.config import ConfigError, Traces
from gateway.traces import tracer as tracer_module
from gateway.traces.tracer import Bystander, check_extra, tracer
from tests.acceptance.events import chat
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream, Visit
from tests.served import Served, serve

pytestmark = pytest.mark.anyio

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
CANARY = "canary-7f3a"
ANSWER = {
    "choices": [{"message": {"role": "assistant", "content": CANARY}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 34},
}
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"Hi"}}]}\n\n'


def answers(status: int, payload: object) -> bytes:
    body = json.dumps(payload).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


class Collector:
    """Receives spans by OTLP over HTTP, in a thread. `paths` are where they came to."""

    def __init__(self) -> None:
        self.spans: queue.SimpleQueue[Span] = queue.SimpleQueue()
        self.resources: list[dict[str, Any]] = []
        self.paths: set[str] = set()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.receive(self.path, body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def receive(self, path: str, body: bytes) -> None:
        self.paths.add(path)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resources.append(attributes_of(resource.resource))
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.put(span)

    async def next(self, count: int) -> list[Span]:
        """Return the next spans, a request's own before that of its upstream."""

        def get() -> list[Span]:
            return [self.spans.get(timeout=PATIENCE_SECONDS) for _ in range(count)]

        return sorted(await asyncio.to_thread(get), key=lambda span: span.kind)


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


@pytest.fixture(scope="module")
async def upstream(anyio_backend: str) -> AsyncIterator[Upstream]:
    async def answer(visit: Visit) -> None:
        await visit.send(answers(200, ANSWER))

    async with Upstream(answer) as upstream:
        yield upstream


@asynccontextmanager
async def gateway(
    folder: Path, upstream: Upstream, *, traces: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
    config = folder / "config.toml"
    config.write_text(f"""
        [traces]
        {traces}
        [cache]
        ttl_seconds = 0
        refusal_seconds = 0
        [retries]
        attempts = 1
        [[upstreams]]
        name = "u"
        dialect = "openai"
        base_url = "{upstream.url}/v1"
        [[models]]
        id = "m"
        targets = [{{ upstream = "u", model = "theirs" }}]
        [[models]]
        id = "e"
        task = "embedding"
        targets = [{{ upstream = "u" }}]
    """)
    async with serve(folder / "data", "--config", config, env=env) as served:
        port = await served.ready()
        key = await served.key()
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}/v1",
            headers={"authorization": f"Bearer {key}"},
            timeout=PATIENCE_SECONDS,
        ) as client:
            yield served, client


@pytest.fixture(scope="module")
async def traced(
    collector: Collector, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a gateway that sends its spans to `collector`."""
    traces = f'endpoint = "{collector.url}"'
    env = {"OTEL_BSP_SCHEDULE_DELAY": "50", "OTEL_RESOURCE_ATTRIBUTES": "deployment=test"}
    folder = tmp_path_factory.mktemp("traced")
    async with gateway(folder, upstream, traces=traces, env=env) as (_, client):
        yield client


@pytest.fixture
async def client(traced: httpx.AsyncClient, upstream: Upstream) -> httpx.AsyncClient:
    upstream.rest()
    return traced


def attributes_of(told: Any) -> dict[str, Any]:
    """Return what a span, or a resource, says, as Python has it."""
    found = {}
    for pair in told.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        if kind == "array_value":
            value = [one.string_value for one in value.values]
        found[pair.key] = value
    return found


def parent_of(visit: Visit) -> list[str]:
    return visit.headers["traceparent"].split("-")


async def test_a_request_is_a_span_and_its_upstreams_part_another(client, upstream, collector):
    reply = await client.post("/chat/completions", json=chat("m"))
    own, theirs = await collector.next(2)
    assert (own.kind, own.name) == (Span.SPAN_KIND_SERVER, "chat m")
    assert own.parent_span_id == b""
    told = attributes_of(own)
    assert told.pop("dragoman.key.id")
    assert told == {
        "http.request.method": "POST",
        "http.route": "/v1/chat/completions",
        "http.response.status_code": 200,
        "http.response.body.size": len(reply.content),
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "u",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": False,
        "gen_ai.response.model": "theirs",
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 34,
        "dragoman.request.id": reply.headers["x-request-id"],
        "dragoman.cache": "bypass",
        "dragoman.cost.nano_usd": 0,
    }
    assert (theirs.kind, theirs.name) == (Span.SPAN_KIND_CLIENT, "chat theirs")
    assert (theirs.trace_id, theirs.parent_span_id) == (own.trace_id, own.span_id)
    assert attributes_of(theirs) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "u",
        "gen_ai.request.model": "theirs",
        "gen_ai.request.stream": False,
        "server.address": "127.0.0.1",
    }
    assert own.start_time_unix_nano <= theirs.start_time_unix_nano <= theirs.end_time_unix_nano
    assert theirs.end_time_unix_nano <= own.end_time_unix_nano
    [visit] = upstream.visits
    assert parent_of(visit) == ["00", own.trace_id.hex(), theirs.span_id.hex(), "01"]
    assert collector.paths == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "dragoman"
    assert collector.resources[0]["deployment"] == "test"


async def test_the_clients_trace_goes_on(client, upstream, collector):
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "a=1,b=2"}
    await client.post("/chat/completions", json=chat("m"), headers=headers)
    own, theirs = await collector.next(2)
    assert (own.trace_id.hex(), own.parent_span_id.hex()) == (TRACE, SPAN)
    assert own.trace_state == theirs.trace_state == "a=1,b=2"
    [visit] = upstream.visits
    assert parent_of(visit) == ["00", TRACE, theirs.span_id.hex(), "01"]
    assert visit.headers["tracestate"] == "a=1,b=2"


async def test_what_the_client_does_not_record_is_not_recorded(client, upstream, collector):
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-00"}
    await client.post("/chat/completions", json=chat("m", user="1"), headers=headers)
    [visit] = upstream.visits
    assert parent_of(visit)[1::2] == [TRACE, "00"]
    await client.post("/embeddings", json={"model": "e", "input": "Hi"})
    names = [span.name for span in await collector.next(2)]
    assert names == ["embeddings e", "embeddings e"]


async def test_an_invalid_trace_is_none(client, upstream, collector):
    headers = {"traceparent": f"00-{'0' * 32}-{SPAN}-01", "tracestate": "a=1"}
    await client.post("/chat/completions", json=chat("m"), headers=headers)
    own, _ = await collector.next(2)
    assert own.trace_id != bytes(16)
    assert own.parent_span_id == b""
    assert "tracestate" not in upstream.visits[0].headers


async def test_a_failure_is_told_by_its_code(client, upstream, collector):
    upstream.play(answers(500, {"error": CANARY}))
    await client.post("/chat/completions", json=chat("m"))
    for span in await collector.next(2):
        assert span.status.code == span.status.STATUS_CODE_ERROR
        assert attributes_of(span)["error.type"] == "upstream_error"


async def test_a_stream_that_breaks_off_is_a_failure(client, upstream, collector):
    async def reset(visit: Visit) -> None:
        await visit.send(STREAM_HEAD, CHUNK)
        visit.reset()

    upstream.play(reset)
    await client.post("/chat/completions", json=chat("m", stream=True))
    own, theirs = await collector.next(2)
    told = attributes_of(own)
    assert own.status.code == own.status.STATUS_CODE_ERROR
    assert (told["http.response.status_code"], told["error.type"]) == (200, "upstream_error")
    assert told["gen_ai.request.stream"]
    assert 0 < told["gen_ai.response.time_to_first_chunk"] < PATIENCE_SECONDS
    assert theirs.start_time_unix_nano >= own.start_time_unix_nano


async def test_a_client_is_to_blame_for_its_own_errors(client, collector):
    await client.post("/chat/completions", json=chat(CANARY))
    [own] = await collector.next(1)
    assert own.name == "chat"
    assert own.status.code == own.status.STATUS_CODE_UNSET
    assert attributes_of(own)["error.type"] == "model_not_found"


async def test_no_span_holds_what_was_said(client, upstream, collector):
    upstream.play(
        answers(200, ANSWER), answers(400, {"error": {"message": CANARY, "code": CANARY + " "}})
    )
    said = chat("m", messages=[{"role": "user", "content": CANARY}], user=CANARY)
    for _ in range(2):
        await client.post(f"/chat/completions?a={CANARY}", json=said, headers={"x-mine": CANARY})
    spans = await collector.next(4)
    assert not [span for span in spans if CANARY.encode() in span.SerializeToString()]


async def test_other_requests_are_no_spans(client, collector):
    await client.get("/models")
    await client.post("/chat/completions", json=chat("m"))
    assert [span.name for span in await collector.next(2)] == ["chat m", "chat theirs"]


async def test_the_environment_can_say_where_spans_go_and_the_end_sends_the_last(
    tmp_path, upstream, collector
):
    upstream.rest()
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "ours"}
    async with gateway(tmp_path, upstream, traces="", env=env) as (served, client):
        await client.post("/chat/completions", json=chat("m"))
        assert collector.spans.empty()
        assert await served.end(signal.SIGTERM) == 0
    assert [span.name for span in await collector.next(2)] == ["chat m", "chat theirs"]
    assert collector.resources[-1]["service.name"] == "ours"


async def test_a_collector_that_is_down_costs_a_line(tmp_path, upstream):
    upstream.rest()
    traces = 'endpoint = "http://127.0.0.1:1"'
    env = {"OTEL_BSP_SCHEDULE_DELAY": "10", "DRAGOMAN__LOGS__FORMAT": "json"}
    async with gateway(tmp_path, upstream, traces=traces, env=env) as (served, client):
        for _ in range(20):
            reply = await client.post("/chat/completions", json=chat("m"))
            assert reply.status_code == 200
        assert await served.end(signal.SIGTERM) == 0
    told = [line for line in served.said.splitlines() if '"logger":"opentelemetry' in line]
    assert 1 <= len(told) <= 10
    assert "Traceback" not in served.said


async def test_without_an_endpoint_the_clients_trace_is_passed_on(tmp_path, upstream):
    upstream.rest()
    async with gateway(tmp_path, upstream, traces="") as (_, client):
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-00", "tracestate": "a=1"}
        await client.post("/chat/completions", json=chat("m"), headers=headers)
        await client.post("/chat/completions", json=chat("m"), headers={"traceparent": "00-1"})
    first, second = upstream.visits
    assert {name: first.headers[name] for name in headers} == headers
    assert "traceparent" not in second.headers


def test_without_an_endpoint_nothing_that_sends_spans_is_loaded():
    """Of OpenTelemetry's packages redis-py loads what is for metrics."""
    program = (
        "import sys, gateway.app\n"
        "from gateway.config import Traces\n"
        "from gateway.traces.tracer import tracer\n"
        "def is_loaded(): return 'opentelemetry.exporter.otlp' in sys.modules\n"
        "tracer(Traces(), env={})\n"
        "assert not is_loaded() and 'gateway.traces.spans' not in sys.modules\n"
        "tracer(Traces(endpoint='http://127.0.0.1:1'), env={})\n"
        "assert is_loaded()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_SECONDS)


@contextmanager
def without_the_extra(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(tracer_module, "_PACKAGES", ("opentelemetry_that_is_not_there.sdk",))
        yield


def test_an_endpoint_without_the_extra_is_refused(monkeypatch):
    with without_the_extra(monkeypatch):
        for settings, env in (
            (Traces(endpoint="http://127.0.0.1:4318"), {}),
            (Traces(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}),
        ):
            for use in (tracer, check_extra):
                with pytest.raises(ConfigError, match=r"pip install 'dragoman\[traces\]'"):
                    use(settings, env=env)


def test_without_an_endpoint_the_extra_is_not_missed(monkeypatch):
    with without_the_extra(monkeypatch):
        check_extra(Traces(), env={})
        assert isinstance(tracer(Traces(), env={}), Bystander)
