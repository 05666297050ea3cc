"""A model that answers each prompt in words of that prompt alone, and clients that read them."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.acceptance.events import DONE, events_of, text_of
from tests.gateway.image_route.painting import as_json
from tests.scripted_upstream import Player, Visit

PATIENCE_SECONDS = 15
USAGE = {"prompt_tokens": 7, "completion_tokens": 3}
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Model:
    """Says `pieces` texts of `size` characters, a multiple of four, which hardly compress."""

    pieces: int = 4
    size: int = 12

    def text(self, prompt: str) -> str:
        """Return the whole answer to a prompt."""
        return "".join(self._texts(prompt))

    async def __call__(self, visit: Visit) -> None:
        """Play the answer to a visit's prompt."""
        await self._play(visit, ())

    def held(self, *gates: asyncio.Event) -> Player:
        """Return what plays it too, but waits at the first gate before it begins.

        Gates that follow are between one frame of a stream and the next.
        """

        async def play(visit: Visit) -> None:
            await self._play(visit, gates)

        return play

    async def _play(self, visit: Visit, gates: Sequence[asyncio.Event]) -> None:
        prompt = visit.body["messages"][0]["content"]
        waiting = iter(gates)
        await _pass(waiting)
        if not visit.body.get("stream"):
            await visit.send(_whole(self.text(prompt)))
            return
        await visit.send(_HEAD)
        for text in self._texts(prompt):
            await visit.send(_chunk({"content": text}))
            await _pass(waiting)
        await visit.send(_chunk({}, finish="stop"), _event(choices=[], usage=USAGE))
        await visit.send(b"data: [DONE]\n\n")
        visit.close()

    def _texts(self, prompt: str) -> list[str]:
        chance = random.Random(prompt)
        count = self.size * 3 // 4
        return [base64.b64encode(chance.randbytes(count)).decode() for _ in range(self.pieces)]


@dataclass
class Asked:
    """A chat that was sent, and what has come of its answer. `whole` ends with it.

    `is_cut`: the connection ended before the answer did.
    """

    request: dict[str, Any]
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    data: bytes = b""
    is_cut: bool = False
    whole: asyncio.Task[None] = field(init=False)

    def __post_init__(self) -> None:
        self._news = asyncio.Event()

    @property
    def cache(self) -> str:
        """What the gateway says of where the answer is from."""
        return self.headers["x-dragoman-cache"]

    @property
    def text(self) -> str:
        """What was said, with the frames that have come whole."""
        if not self.request["stream"]:
            return str(json.loads(self.data)["choices"][0]["message"]["content"])
        return text_of(self.events)

    @property
    def events(self) -> list[Any]:
        """The events of a stream that have come whole."""
        come = self.data[: self.data.rfind(b"\n\n") + 2]
        return events_of(come) if come else []

    def is_answer(self, text: str) -> bool:
        """Tell whether this was said, and nothing else, up to a proper end."""
        is_ended = not self.request["stream"] or self.events[-1:] == [DONE]
        return self.status == 200 and not self.is_cut and is_ended and self.text == text

    async def begun(self) -> None:
        """Wait for a first text of a stream."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self.text:
                self._news.clear()
                await self._news.wait()

    async def ends(self) -> None:
        """Wait for the end of the answer."""
        await asyncio.wait_for(asyncio.shield(self.whole), PATIENCE_SECONDS)

    def begin(self, client: httpx.AsyncClient) -> None:
        """Send it."""
        self.whole = asyncio.create_task(self._read(client))

    async def _read(self, client: httpx.AsyncClient) -> None:
        try:
            async with client.stream("POST", "/chat/completions", json=self.request) as answer:
                self.status, self.headers = answer.status_code, answer.headers
                async for part in answer.aiter_raw():
                    self.data += part
                    self._news.set()
        except (httpx.RemoteProtocolError, httpx.ReadError):
            self.is_cut = True


@asynccontextmanager
async def asking(
    clients: Sequence[httpx.AsyncClient], prompt: str, *, stream: bool | None = False
) -> AsyncIterator[list[Asked]]:
    """Send a chat of each client. Who has no whole answer at the end of the block leaves.

    `stream` None: every other of them wants a stream.
    """
    asked = [
        Asked(chat(prompt, stream=at % 2 == 1 if stream is None else stream))
        for at, _ in enumerate(clients)
    ]
    for one, client in zip(asked, clients, strict=True):
        one.begin(client)
    try:
        yield asked
    finally:
        for one in asked:
            one.whole.cancel()
        await asyncio.wait([one.whole for one in asked])


async def ask(client: httpx.AsyncClient, prompt: str, *, stream: bool = False) -> Asked:
    """Return the whole answer to one chat."""
    async with asking([client], prompt, stream=stream) as [asked]:
        await asked.ends()
    return asked


def chat(prompt: str, *, stream: bool = False) -> dict[str, Any]:
    """Return a request whose answer may be kept."""
    messages = [{"role": "user", "content": prompt}]
    return {"model": "m", "messages": messages, "seed": 1, "stream": stream}


def _whole(text: str) -> bytes:
    choice = {"index": 0, "message": {"content": text}, "finish_reason": "stop"}
    return as_json({"choices": [choice], "usage": USAGE})


def _chunk(delta: dict[str, str], *, finish: str | None = None) -> bytes:
    return _event(choices=[{"index": 0, "delta": delta, "finish_reason": finish}])


def _event(**fields: Any) -> bytes:
    return f"data: {json.dumps(fields)}\n\n".encode()


async def _pass(gates: Any) -> None:
    gate = next(gates, None)
    if gate is not None:
        await gate.wait()
