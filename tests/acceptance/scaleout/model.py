"""What stands behind the gateways: a model that is asked for so many tokens, and counts."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

from tests.gateway.running import Answer
from tests.scripted_upstream import Visit

TOKEN = "quince "
PACE_SECONDS = 0.1
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n"
_PROMPT_TOKENS = 5


class Model:
    """Answers at once, streams at its pace; neither before `may_answer` is set.

    `calls` counts the requests by their prompts.
    """

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self, visit: Visit) -> None:
        """Answer one request."""
        self.calls[visit.body["messages"][-1]["content"]] += 1
        tokens = visit.body["max_tokens"]
        await self.may_answer.wait()
        if visit.body.get("stream"):
            await _stream(visit, tokens)
        else:
            message = {"role": "assistant", "content": TOKEN * tokens}
            choice = {"index": 0, "message": message, "finish_reason": "length"}
            body = json.dumps({"choices": [choice], "usage": _usage(tokens)}).encode()
            head = _HEAD % b"application/json" + b"content-length: %d\r\n\r\n" % len(body)
            await visit.send(head + body)


def chat(prompt: str, *, tokens: int = 4, stream: bool = False, **more: Any) -> dict[str, Any]:
    """Return a request for so many tokens."""
    messages = [{"role": "user", "content": prompt}]
    return {"model": "m", "messages": messages, "max_tokens": tokens, "stream": stream, **more}


def is_whole(answer: Answer, tokens: int) -> bool:
    """Tell whether an answer brought all tokens, and, if it was streamed, its end."""
    is_stream = answer.headers.get("content-type", "").startswith("text/event-stream")
    is_ended = not is_stream or answer.body.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
    return answer.body.count(TOKEN.strip().encode()) == tokens and is_ended


async def _stream(visit: Visit, tokens: int) -> None:
    await visit.send(_HEAD % b"text/event-stream" + b"connection: close\r\n\r\n")
    for _ in range(tokens):
        if visit.left.is_set():
            return
        await visit.send(_event(choices=[{"index": 0, "delta": {"content": TOKEN}}]))
        await asyncio.sleep(PACE_SECONDS)
    end = {"index": 0, "delta": {}, "finish_reason": "length"}
    usage = _event(choices=[], usage=_usage(tokens))
    await visit.send(_event(choices=[end]) + usage + b"data: [DONE]\n\n")
    visit.close()


def _usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": _PROMPT_TOKENS, "completion_tokens": tokens}


def _event(**fields: Any) -> bytes:
    return b"data: %b\n\n" % json.dumps(fields).encode()
