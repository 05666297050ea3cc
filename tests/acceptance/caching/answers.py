"""What is asked of gateways with a cache, what their upstream says, and what shows of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import httpx

from gateway.amounts import Usage
from tests.acceptance.metering.exchange_kinds import KINDS, Json, Kind
from tests.acceptance.recordings import LAST_CHUNK, chunk
from tests.gateway.image_route.painting import as_json
from tests.scripted_upstream import Upstream, Visit

_OWN = re.compile(rb'"id":"(chatcmpl|cmpl)-[^"]+"|"created(_at)?":\d+')
_DRAWN = ("/chat/completions", "/completions", "/images/generations")
_AMOUNTS = ("input_tokens", "output_tokens", "images", "characters", "audio_ms", "estimated")
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
)


def repeatable(kind: Kind) -> Kind:
    """Return `kind` with a seed where something is drawn, and a stream with its usage."""
    if kind.path not in _DRAWN:
        return kind
    options: Json = {"seed": 7}
    if kind.finish and kind.request["json"].get("stream"):
        options["stream_options"] = {"include_usage": True}
    return kind.having(**options)


REPEATABLE: Mapping[str, Kind] = {name: repeatable(kind) for name, kind in KINDS.items()}
CHAT, STREAM = (REPEATABLE[name] for name in ("openai-chat", "openai-chat-stream"))
IMAGES = REPEATABLE["images"]


def with_headers(kind: Kind, **headers: str) -> Kind:
    """Return `kind` with these headers; underscores in their names stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return replace(kind, request={**kind.request, "headers": named})


def visits_of(kind: Kind) -> list[bytes]:
    """Return what each visit of the upstream is answered with, in one go."""
    numbers = sorted({number for number, _ in kind.steps})
    return [b"".join(data for at, data in kind.steps if at == number) for number in numbers]


def anonymous(answer: bytes) -> bytes:
    """Return an answer without `id` and `created`, which every answer has of its own."""
    return _OWN.sub(b"", answer)


def status_of(answer: httpx.Response) -> str:
    """Return what a good answer says of the cache."""
    assert answer.status_code == 200, answer.text
    return answer.headers["x-dragoman-cache"]


def amounts(record: Any) -> Usage:
    """Return what a record tells was used."""
    return Usage(**{name: record[name] for name in _AMOUNTS})


def whole(*choices: Json, **more: Any) -> bytes:
    """Return OpenAI's answer of these choices; each is a message and its finish reason."""
    numbered = [{"index": at, "finish_reason": "stop"} | one for at, one in enumerate(choices)]
    usage = {"prompt_tokens": 7, "completion_tokens": 3}
    return as_json({"choices": numbered, "usage": usage} | more)


def said(text: str, **more: Any) -> bytes:
    """Return OpenAI's answer of one choice with this text."""
    return whole({"message": {"role": "assistant", "content": text}, **more})


def begun(*choices: Json) -> bytes:
    """Return the head of a stream, and a chunk for each choice."""
    return _STREAM_HEAD + b"".join(event({"choices": [one]}) for one in choices)


def streamed(*choices: Json) -> bytes:
    """Return OpenAI's whole stream, a chunk for each of `choices`, with the usage of `whole`."""
    usage = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}
    return begun(*choices) + event(usage) + chunk(b"data: [DONE]\n\n") + LAST_CHUNK


def event(payload: Json) -> bytes:
    """Return one event of a stream."""
    return chunk(f"data: {json.dumps(payload)}\n\n".encode())


def delta(index: int = 0, reason: str | None = None, **fields: Any) -> Json:
    """Return one choice of a chunk; `logprobs` stand beside its delta."""
    beside = {"logprobs": fields.pop("logprobs")} if "logprobs" in fields else {}
    return {"index": index, "delta": fields, "finish_reason": reason, **beside}


class Counter:
    """An upstream that says another number each time it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def __call__(self, visit: Visit) -> None:
        """Answer in the form that the request has."""
        self.asked += 1
        text = f"answer {self.asked}"
        if visit.path.startswith("/models/"):
            await visit.send(as_json([{"generated_text": text}]))
        elif visit.body.get("stream"):
            await visit.send(streamed(delta(content=text), delta(reason="stop")))
        else:
            choices = range(visit.body.get("n", 1))
            await visit.send(whole(*({"message": {"content": f"{text}.{at}"}} for at in choices)))


def counting_upstream(upstream: Upstream) -> Counter:
    """Let `upstream` say another number each time."""
    counter = Counter()
    upstream.play(counter)
    return counter
