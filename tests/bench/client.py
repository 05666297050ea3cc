"""One HTTP/1.1 connection to a chat server, and the reading of what came over it.

Reading is apart from receiving: while a load runs, an answer is only collected, and what is
in it can be looked at when nothing is being timed.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from time import perf_counter
from typing import Any, cast

import msgspec

from tests.bench.answers import MODEL, TOKEN

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_FIRST_TOKEN = TOKEN.strip().encode()
_LAST_CHUNK = b"0\r\n\r\n"
_ANSWER_SECONDS = 120.0
# What reading an answer of another shape than expected raises.
_UNREADABLE = (msgspec.DecodeError, ValueError, LookupError, TypeError, AttributeError)


class WrongAnswer(Exception):
    """The server answered something else than what was asked for; the message shows what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where requests go, in OpenAI's form: chat, or with `completions` its legacy completions.

    `key` is the bearer token, if any.
    """

    host: str
    port: int
    key: str | None = None
    completions: bool = False

    def request(self, prompt: str, *, tokens: int, stream: bool = False) -> bytes:
        """Return the HTTP request for an answer of `tokens` tokens to `prompt`.

        Its temperature is 0, so that a cache may keep the answer.
        """
        asked = {"prompt": prompt} if self.completions else {"messages": _messages(prompt)}
        body = {"model": MODEL, **asked, "max_tokens": tokens, "temperature": 0}
        if stream:
            body["stream"] = True
        return self._post(msgspec.json.encode(body))

    def _post(self, body: bytes) -> bytes:
        path = "/v1/completions" if self.completions else "/v1/chat/completions"
        head = (
            f"POST {path} HTTP/1.1\r\nhost: {self.host}:{self.port}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
        )
        if self.key:
            head += f"authorization: Bearer {self.key}\r\n"
        return head.encode() + b"\r\n" + body


def _messages(prompt: str) -> list[dict[str, str]]:
    system = "You are a gardener. Answer briefly, and name fruit only."
    return [{"role": "system", "content": system}, {"role": "user", "content": prompt}]


class Connection(asyncio.Protocol):
    """Sends one request at a time; once `closed`, another has to be opened."""

    def __init__(self) -> None:
        self.closed = False
        self.first_token_at: float | None = None
        self._received = bytearray()
        self._size: int | None = None
        self._answer: asyncio.Future[bytes] | None = None

    @classmethod
    async def open(cls, target: Target) -> Connection:
        """Connect. Raises OSError when nothing listens."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, target.host, target.port)
        return connection

    async def exchange(self, request: bytes) -> bytes:
        """Return the whole response to `request`, framed as it came.

        `first_token_at` is then the time (`perf_counter`) at which the first token arrived.
        Raises WrongAnswer when the server hangs up, TimeoutError after two minutes.
        """
        self._received.clear()
        self._size = None
        self.first_token_at = None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await self._answer

    def close(self) -> None:
        """Close at once."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed = True
        if self._answer is not None and not self._answer.done():
            received = bytes(self._received[-300:])
            self._answer.set_exception(WrongAnswer(f"hung up after {received!r}"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self.first_token_at is None and _FIRST_TOKEN in self._received:
            self.first_token_at = perf_counter()
        if self._answer is not None and not self._answer.done() and self._is_complete():
            self._answer.set_result(bytes(self._received))

    def _is_complete(self) -> bool:
        if self._size is None:
            end = self._received.find(b"\r\n\r\n") + 4
            if end < 4:
                return False
            length = _LENGTH.search(self._received, 0, end)
            self._size = end + int(length[1]) if length else 0
        if self._size:
            return len(self._received) >= self._size
        return self._received.endswith(_LAST_CHUNK)


def tokens_answered(response: bytes) -> int:
    """Return how many tokens a response brought, whole or streamed.

    Raises WrongAnswer unless it is a 200 with one choice that says `finish_reason: length`.
    """
    head, _, body = response.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise WrongAnswer(f"not a 200: {response[:600]!r}")
    try:
        body = body if _LENGTH.search(head) else _unchunked(body)
        text = _streamed(body) if b"text/event-stream" in head else _whole(body)
    except _UNREADABLE as error:
        raise WrongAnswer(f"not an answer ({error!r}): {body[-300:]!r}") from error
    tokens, rest = divmod(len(text), len(TOKEN))
    # The first token's blank may be trimmed, as templates and detokenizers do.
    if text.strip() != (TOKEN * (tokens + bool(rest))).strip():
        raise WrongAnswer(f"not the upstream's text: {text[:100]!r}")
    return tokens + bool(rest)


def _whole(body: bytes) -> str:
    (choice,) = msgspec.json.decode(body)["choices"]
    return _finished([_text(choice, "message")], choice["finish_reason"])


def _streamed(body: bytes) -> str:
    events = [event for event in body.split(b"\n\n") if event.startswith(b"data:")]
    if events[-1] != b"data: [DONE]":
        raise WrongAnswer(f"a stream without [DONE]: {events[-1]!r}")
    chunks = [msgspec.json.decode(event[5:]) for event in events[:-1]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    texts = [_text(choice, "delta") for choice in choices]
    reasons = [reason for choice in choices if (reason := choice.get("finish_reason"))]
    return _finished(texts, *reasons)


def _text(choice: dict[str, Any], part: str) -> str:
    text = choice["text"] if "text" in choice else choice[part].get("content")
    return text or ""


def _finished(texts: list[str], *reasons: str) -> str:
    if reasons != ("length",):
        raise WrongAnswer(f"expected one finish_reason 'length', got {reasons!r}")
    return "".join(texts)


def _unchunked(body: bytes) -> bytes:
    """Return `body` without its chunked framing (RFC 9112 §7.1)."""
    parts, position = [], 0
    while position < len(body):
        line_end = body.index(b"\r\n", position)
        size = int(body[position:line_end].split(b";")[0], 16)
        parts.append(body[line_end + 2 : line_end + 2 + size])
        position = line_end + size + 4
    return b"".join(parts)
