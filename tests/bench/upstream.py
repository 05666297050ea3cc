"""A model server that costs next to nothing, so that what is measured is the gateway.

It answers in two wire forms, chosen by the path: OpenAI's (`…/chat/completions`) and the native
one (`…/models/{id}`, `…/generate`, `…/generate_stream`). Every answer is as many tokens as the
request allows, from bytes made beforehand. A stream's first token leaves right after its head,
the others at `tokens_per_second`; one token is one write, as a real server's decode step is.
A GET of any path answers 200, for gateways that probe their upstreams.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from typing import Any, cast

import msgspec
import uvloop

from tests.bench import answers

HOST = "127.0.0.1"

_CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_UNREADABLE = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"

Script = tuple[bytes, ...]


class Upstream:
    """Listens on 127.0.0.1; `calls` counts the POSTs that were answered."""

    def __init__(self, tokens_per_second: float) -> None:
        self.interval_seconds = 1 / tokens_per_second
        self.calls = 0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._transports: set[asyncio.Transport] = set()
        self._scripts: dict[tuple[bytes, bool, int, bool], Script] = {}

    async def start(self, port: int = 0) -> None:
        """Listen on `port`, or on a free one, which is then in `self.port`."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Exchange(self), HOST, port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def close(self) -> None:
        """Stop listening; what is under way ends with its connection."""
        if self._server is not None:
            self._server.close()

    def meet(self, transport: asyncio.Transport) -> None:
        """Note a connection."""
        self._transports.add(transport)

    def part(self, transport: asyncio.Transport) -> None:
        """Note that a connection has ended."""
        self._transports.discard(transport)

    def hang_up(self) -> None:
        """Close all connections: clients keep some for later."""
        for transport in self._transports:
            transport.close()

    def script(self, path: bytes, request: dict[str, Any]) -> Script:
        """Return the writes that answer `request`: one, or a stream's head and its tokens.

        Raises KeyError for a request that does not say how many tokens it wants.
        """
        form = path.rsplit(b"/", 1)[-1]
        stream = bool(request.get("stream")) or form == b"generate_stream"
        usage = bool((request.get("stream_options") or {}).get("include_usage"))
        key = (form, stream, _tokens_asked(request), usage)
        if key not in self._scripts:
            self._scripts[key] = _script(*key)
        return self._scripts[key]


def _tokens_asked(request: dict[str, Any]) -> int:
    native = request.get("parameters")
    if native is not None:
        return int(native["max_new_tokens"])
    return int(request.get("max_tokens") or request["max_completion_tokens"])


def _script(form: bytes, stream: bool, tokens: int, usage: bool) -> Script:
    match (form, stream):
        case (b"completions", False):
            return (answers.openai_answer(tokens),)
        case (b"completions", True):
            return (answers.STREAM_HEAD, *answers.openai_events(tokens, usage=usage))
        case (_, False):
            return (answers.native_answer(tokens, array=form != b"generate"),)
        case _:
            return (answers.STREAM_HEAD, *answers.native_events(tokens))


class _Exchange(asyncio.Protocol):
    """One connection: requests one after the other, each answered before the next is read."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._received = bytearray()
        self._timer: asyncio.Handle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are of no class of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._upstream.meet(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._upstream.part(self._transport)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._timer is None:
            self._read_request()

    def _read_request(self) -> None:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end])
        length = _CONTENT_LENGTH.search(head)
        size = end + 4 + (int(length[1]) if length else 0)
        if len(self._received) < size:
            return
        body = bytes(self._received[end + 4 : size])
        del self._received[:size]
        self._respond(head, body)

    def _respond(self, head: bytes, body: bytes) -> None:
        method, path, _ = head.split(b" ", 2)
        if method != b"POST":
            self._transport.write(answers.description())
            return
        try:
            script = self._upstream.script(path, msgspec.json.decode(body))
        except (msgspec.DecodeError, KeyError):
            self._transport.write(_UNREADABLE)
            self._transport.close()
            return
        self._upstream.calls += 1
        self._transport.write(script[0])
        if len(script) > 1:
            # Not in this tick: head and first token are two segments, as from a real server.
            self._timer = self._loop.call_soon(self._play, script, 1, self._loop.time())

    def _play(self, script: Script, position: int, started_at: float) -> None:
        self._transport.write(script[position])
        if position + 1 == len(script):
            self._timer = None
            self._read_request()
            return
        due_at = started_at + position * self._upstream.interval_seconds
        self._timer = self._loop.call_at(due_at, self._play, script, position + 1, started_at)


async def _serve(port: int, tokens_per_second: float) -> None:
    upstream = Upstream(tokens_per_second)
    await upstream.start(port)
    print(f"listening on http://{HOST}:{upstream.port}", flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Serve until interrupted, for a look at a gateway by hand."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.upstream")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--tokens-per-second", type=float, default=100.0)
    arguments = parser.parse_args()
    try:
        uvloop.run(_serve(arguments.port, arguments.tokens_per_second))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
