"""An upstream of text in three dialects that lets one token go at a time, and routes to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

from adapters.base import Task
from adapters.transport import Transport
from gateway.config import Settings
from gateway.exchange import Body, Exchange, Route
from gateway.keys import Caller
from gateway.streaming import AnswerStream
from gateway.tapes import Direct
from gateway.tasks.text import TextJob, TextTask
from gateway.upstreams.catalog import Catalog
from tests.gateway.running import DIALECTS, TOKENIZER
from tests.scripted_upstream import Upstream, Visit

PIECE = " one"  # a token of the tokenizer, and four characters
PROMPT = "Which fruit is red?"
TOKENS = 3  # of each choice
CHUNKED = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)
LAST_CHUNK = b"0\r\n\r\n"

Event = tuple[bytes, int]  # the frame, and how many tokens it holds


def exchange(dialect: str, *, task: Task = Task.CHAT, **body: Any) -> Exchange:
    """Return a request of the model behind `dialect`."""
    said: dict[str, Any] = (
        {"messages": [{"role": "user", "content": PROMPT}]}
        if task is Task.CHAT
        else {"prompt": PROMPT}
    )
    return Exchange(
        id="0",
        task=task,
        caller=Caller(id="id", name="test"),
        body={"model": dialect, **said, **body},
    )


def routes(url: str, *, tokenizers: Collection[str] = ("hf", "tgi")) -> dict[str, Route]:
    """Return a route for each dialect; `tokenizers`: those whose model has one."""
    settings = Settings.model_validate(
        {
            "upstreams": [
                {"name": name, "dialect": name, "base_url": url, "load_wait_seconds": 0}
                for name in DIALECTS
            ],
            "models": [
                {
                    "id": name,
                    "max_tokens_default": 50,
                    "targets": [{"upstream": name}],
                    "tokenizer": str(TOKENIZER) if name in tokenizers else None,
                }
                for name in DIALECTS
            ],
        }
    )
    models = Catalog(settings, Transport()).models
    return {model.id: Route(model, model.targets[0]) for model in models}


def native_events(*, told: bool = True) -> Iterator[Event]:
    """Yield a native stream of TOKENS tokens, of which the last is no text."""
    for _ in range(TOKENS - 1):
        yield _event({"token": {"id": 1, "text": PIECE, "logprob": -1, "special": False}}), 1
    details = {"finish_reason": "eos_token", "generated_tokens": TOKENS, "input_length": 7}
    end: dict[str, Any] = {"token": {"id": 2, "text": "</s>", "logprob": 0, "special": True}}
    yield _event(end | {"generated_text": "", "details": details if told else None}), 1


def openai_events(choices: int, *, told: bool = True) -> Iterator[Event]:
    """Yield a stream of `choices` by turns, TOKENS tokens in each."""
    for _ in range(TOKENS):
        for at in range(choices):
            yield _event({"choices": [{"index": at, "delta": {"content": PIECE}}]}), 1
    for at in range(choices):
        yield _event({"choices": [{"index": at, "delta": {}, "finish_reason": "stop"}]}), 0
    usage = {"prompt_tokens": 7, "completion_tokens": TOKENS * choices}
    yield _event({"choices": [], "usage": usage if told else None}) + b"data: [DONE]\n\n", 0


def whole(visit: Visit, *, told: bool = True) -> bytes:
    """Return a whole answer of as many tokens as were allowed, in the dialect of the request."""
    body = visit.body
    if "messages" in body or "prompt" in body:
        allowed = body.get("max_tokens", 16) * body.get("n", 1)
        choices = [
            {"index": at, "message": {"content": PIECE * 2}, "text": PIECE, "finish_reason": "stop"}
            for at in range(body.get("n", 1))
        ]
        usage = {"prompt_tokens": 7, "completion_tokens": allowed}
        return as_json({"choices": choices, "usage": usage if told else None})
    allowed = body["parameters"]["max_new_tokens"]
    details = {"finish_reason": "length", "generated_tokens": allowed, "input_length": 7}
    return as_json({"generated_text": PIECE * 2} | ({"details": details} if told else {}))


def as_json(body: object, *, status: int = 200) -> bytes:
    """Return a response."""
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    return f"{head}\r\n\r\n".encode() + data


async def play_whole(visit: Visit) -> None:
    """Play a whole answer that tells its usage."""
    await visit.send(whole(visit))


@dataclass
class Text:
    """The task of text, with a route for each dialect."""

    task: TextTask
    routes: dict[str, Route]

    async def prepared(self, asked: Exchange) -> TextJob:
        return await self.task.prepare(asked, self.routes[asked.body["model"]])

    async def streamed(self, asked: Exchange) -> AnswerStream:
        answer = await self.answered(asked)
        assert isinstance(answer, AnswerStream)
        return answer

    async def answered(self, asked: Exchange) -> Body | AnswerStream:
        return await directly(await self.prepared(asked))


async def directly(job: TextJob) -> Body | AnswerStream:
    """Return the answer, made for its exchange alone."""
    return await job.answer([Direct(part) for part in job.parts])


class Tap:
    """Plays `events_of` each visit: the first at once, each of the others when `drip` says so.

    `sent` counts the tokens. After `limit` events of all visits the connections break.
    """

    def __init__(
        self,
        upstream: Upstream,
        events_of: Callable[[Visit], Iterator[Event]],
        *,
        limit: int | None = None,
    ) -> None:
        self.sent = 0
        self._events_of = events_of
        self._left = limit
        self._drops = asyncio.Semaphore(0)
        upstream.play(self._play)

    def drip(self) -> None:
        """Let one more event go."""
        self._drops.release()

    async def _play(self, visit: Visit) -> None:
        await visit.send(CHUNKED)
        for at, (frame, tokens) in enumerate(self._events_of(visit)):
            if at:
                await self._drops.acquire()
            if self._left == 0:
                visit.reset()
                return
            if self._left is not None:
                self._left -= 1
            self.sent += tokens
            await visit.send(b"%x\r\n%b\r\n" % (len(frame), frame))
        await visit.send(LAST_CHUNK)


def events_for(*, told: bool = True) -> Callable[[Visit], Iterator[Event]]:
    """Return what plays a stream in the dialect of a visit's path."""

    def events(visit: Visit) -> Iterator[Event]:
        if visit.path.startswith("/v1/"):
            return openai_events(visit.body.get("n", 1), told=told)
        return native_events(told=told)

    return events


def _event(payload: object) -> bytes:
    return f"data: {json.dumps(payload)}\n\n".encode()
