"""What upstreams say on the wire: one file per answer in `wire/`, head and body as they came.

Only the framing is put in here: files have no `content-length` and no chunks, and lines of
their heads end in LF. Forms: text-generation-inference 1.4 (`native/old`) and 3.3, hf-inference,
Inference Endpoints, vLLM, TGI's Messages API (`openai/tgi`), llama.cpp.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.scripted_upstream import Visit

FOLDER = Path(__file__).parent / "wire"
LAST_CHUNK = b"0\r\n\r\n"
BREAKING = ("native/fails", "openai/fails")


@dataclass(frozen=True, slots=True)
class Recording:
    """One answer. `head` lacks its framing header and the blank line."""

    head: bytes
    body: bytes

    @property
    def events(self) -> list[bytes]:
        """The frames of a stream, each with its blank line; a rest without one is the last."""
        return [part for part in self.body.replace(b"\n\n", b"\n\n\0").split(b"\0") if part]

    def whole(self) -> bytes:
        """Return the answer in one piece."""
        return b"%b\r\ncontent-length: %d\r\n\r\n%b" % (self.head, len(self.body), self.body)

    def chunked(self, *parts: bytes) -> bytes:
        """Return the head and `parts`, one chunk each, without the last chunk."""
        return b"%b\r\ntransfer-encoding: chunked\r\n\r\n%b" % (
            self.head,
            b"".join(map(chunk, parts)),
        )


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk of a body (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(data), data)


@cache
def recording(name: str) -> Recording:
    """Return `wire/{name}.http`."""
    head, _, body = (FOLDER / f"{name}.http").read_bytes().partition(b"\n\n")
    return Recording(head.replace(b"\n", b"\r\n"), body)


def names(folder: str) -> list[str]:
    """Return the names under `wire/{folder}`, `native/plain` once for its answer and stream."""
    files = sorted((FOLDER / folder).iterdir())
    return list(dict.fromkeys(f"{folder}/{file.name.split('.')[0]}" for file in files))


class Library:
    """Plays the recording that the model of a request is named after.

    Before the last event of one of BREAKING it waits for another request, by which the client
    shows that it has seen the events before.
    """

    def __init__(self) -> None:
        self._asked = asyncio.Event()

    async def __call__(self, visit: Visit) -> None:
        """Answer one request."""
        name = visit.body.get("model") or visit.path.removeprefix("/hf-inference/models/")
        form = "stream" if visit.body.get("stream") else "answer"
        recorded = recording(name if name.startswith("errors/") else f"{name}.{form}")
        if name not in BREAKING:
            self._asked.set()
            await visit.send(framed(recorded))
            return
        *begun, last = recorded.events
        self._asked.clear()
        await visit.send(recorded.chunked(*begun))
        await self._asked.wait()
        await visit.send(chunk(last) + LAST_CHUNK)


def framed(recorded: Recording) -> bytes:
    """Return the answer framed as servers do: streams in chunks, all others by length."""
    if b"text/event-stream" not in recorded.head:
        return recorded.whole()
    return recorded.chunked(*recorded.events) + LAST_CHUNK
