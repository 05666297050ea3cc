"""A whole gateway in this process: a model per dialect, an upstream that counts, real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from litestar import Litestar

from gateway.app import create_app
from gateway.book import Book, KeyOptions
from gateway.config import Settings
from gateway.keys import digest, generate
from gateway.worker import server_config

PEPPER = b"p" * 32
TOKENIZER = (
    Path(__file__).parents[2] / "adapters" / "local" / "tokenizers" / "SmolLM2-135M-Instruct"
)
DIALECTS = ("openai", "hf", "tgi")
CHAT = {"model": "openai/model", "messages": [{"role": "user", "content": "Hello"}]}
COMPLETION = {"model": "openai/model", "prompt": "Hello"}

_TOKEN = {"token": {"id": 1, "text": "Hi", "logprob": -0.1, "special": False}}
_DETAILS = {"finish_reason": "eos_token", "generated_tokens": 1, "input_length": 3, "tokens": []}
_NATIVE = {"generated_text": "Hi", "details": _DETAILS}


@dataclass
class FakeUpstream(httpx.MockTransport):
    """Answers `Hi` in every dialect and keeps what it was asked."""

    requests: list[httpx.Request] = field(default_factory=list, repr=False)
    answer: Callable[[httpx.Request], httpx.Response] | None = None

    def __post_init__(self) -> None:
        super().__init__(self._answer)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answer(request) if self.answer else say_hi(request)


def say_hi(request: httpx.Request) -> httpx.Response:
    """Return a right answer, or stream of events, in the dialect of the request's path."""
    body = json.loads(request.content)
    path = request.url.path
    if path.endswith("/completions"):
        return _say_hi_as_openai(body, chat=path.endswith("/chat/completions"))
    if body.get("stream") or path.endswith("/generate_stream"):
        return events({**_TOKEN, **_NATIVE})
    return httpx.Response(200, json=_NATIVE if path.endswith("/generate") else [_NATIVE])


def _say_hi_as_openai(body: dict[str, Any], *, chat: bool) -> httpx.Response:
    prompt = None if chat else body.get("prompt")
    is_batch = isinstance(prompt, list) and not isinstance(prompt[0], int)
    total = body.get("n", 1) * (len(prompt) if is_batch else 1)
    said = {"role": "assistant", "content": "Hi"}
    name = "delta" if body.get("stream") else "message"
    shape = {name: said} if chat else {"text": "Hi"}
    choices = [{"index": at, **shape, "finish_reason": "stop"} for at in range(total)]
    if body.get("stream"):
        return events({"choices": choices}, "[DONE]")
    return httpx.Response(200, json={"choices": choices, "usage": {}})


def events(*payloads: object) -> httpx.Response:
    """Return a stream of events; texts stand as they are, all else as JSON."""
    lines = (said if isinstance(said, str) else json.dumps(said) for said in payloads)
    return httpx.Response(
        200,
        headers={"content-type": "text/event-stream"},
        content="".join(f"data: {line}\n\n" for line in lines).encode(),
    )


def settings(*, tokenizer: Path | None = None, **server: Any) -> Settings:
    """Return settings with the models `openai/model`, `hf/model` and `tgi/model`.

    The last two need a `tokenizer`.
    """
    return Settings(
        server=server,
        upstreams=[
            {"name": name, "dialect": name, "base_url": "http://127.0.0.1:1"} for name in DIALECTS
        ],
        models=[
            {
                "id": f"{name}/model",
                "aliases": [f"alias-{name}"],
                "tokenizer": str(tokenizer) if tokenizer else None,
                "targets": [{"upstream": name}],
            }
            for name in DIALECTS
        ],
    )


@dataclass(repr=False)
class Gateway:
    """A gateway and a key to it."""

    app: Litestar
    book: Book
    upstream: FakeUpstream
    key: str
    key_id: str

    def __repr__(self) -> str:
        return "Gateway"

    @property
    def headers(self) -> dict[str, str]:
        """What every authorised request carries."""
        return {"authorization": f"Bearer {self.key}"}

    async def new_key(self, **options: Any) -> tuple[str, str]:
        """Return the text and the id of another key."""
        new = generate()
        await self.book.create_key(
            new.id, digest(new.text, PEPPER), options=KeyOptions(**{"name": "test", **options})
        )
        return new.text, new.id

    def client(self) -> httpx.AsyncClient:
        """Return a client that calls the application without a socket."""
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        return httpx.AsyncClient(
            transport=transport, base_url="http://gateway", headers=self.headers
        )


@asynccontextmanager
async def unstarted_gateway(
    data_dir: Path, config: Settings | None = None
) -> AsyncIterator[Gateway]:
    """Yield a gateway over a fake upstream; `serving` starts it."""
    upstream = FakeUpstream()
    book = await Book.open(data_dir)
    try:
        app = create_app(config or settings(), book=book, pepper=PEPPER, transport=upstream)
        made = Gateway(app, book, upstream, key="", key_id="")
        made.key, made.key_id = await made.new_key()
        yield made
    finally:
        await book.aclose()


@asynccontextmanager
async def started_gateway(data_dir: Path, config: Settings | None = None) -> AsyncIterator[Gateway]:
    """Yield a gateway that is ready for `Gateway.client`."""
    async with unstarted_gateway(data_dir, config) as made, made.app.lifespan():
        yield made


@asynccontextmanager
async def serving(app: Litestar) -> AsyncIterator[int]:
    """Serve `app`, which is not started yet, as a worker does; yield the port."""
    server = uvicorn.Server(server_config(app, drain_seconds=1))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    config = server.config
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    main_loop = asyncio.create_task(server.main_loop())
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await main_loop
        await server.shutdown()


@dataclass
class Answer:
    """A response as it was on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    def error(self) -> dict[str, Any]:
        """Return the error of the body, which must be OpenAI's envelope."""
        return envelope(self.body)


def envelope(body: bytes) -> dict[str, Any]:
    """Return the error in `body` after checking its form."""
    whole = json.loads(body)
    assert set(whole) == {"error"}, whole
    error = whole["error"]
    assert set(error) == {"message", "type", "param", "code"}, error
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    return error


class Wire:
    """A client's bare connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, data: bytes) -> None:
        """Send bytes as they are. What the other side does not want is not an error."""
        with suppress(ConnectionError):
            self._writer.write(data)
            await self._writer.drain()

    async def answer(self) -> Answer:
        """Read one response, with a length or chunked."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").rstrip().split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(first.split()[1]), headers, body)

    async def read_until(self, mark: bytes) -> bytes:
        """Read up to `mark`, which must come."""
        return await self._reader.readuntil(mark)

    async def is_closed(self) -> bool:
        """Wait for the other side to hang up."""
        try:
            return await self._reader.read() == b""
        except ConnectionResetError:
            return True

    async def aclose(self) -> None:
        """Hang up."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Wire]:
    """Yield a connection to the gateway on `port`."""
    wire = Wire(*await asyncio.open_connection("127.0.0.1", port))
    try:
        yield wire
    finally:
        await wire.aclose()


def request_head(key: str, *, path: str = "/v1/chat/completions", **headers: object) -> bytes:
    """Return the head of a POST; underscores in names of headers stand for dashes."""
    given = {"host": "gateway", "authorization": f"Bearer {key}"} | headers
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in given.items()]
    return "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")
