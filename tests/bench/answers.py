"""The bytes that the bench's upstream sends: `tokens` times `TOKEN` in either wire form."""

from __future__ import annotations

from typing import Any

import msgspec

TOKEN = " quince"
MODEL = "bench"
PROMPT_TOKENS = 24

STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)
_END = b"0\r\n\r\n"


def description() -> bytes:
    """Return the response to any GET: a model list that also reads as a status."""
    card = {"id": MODEL, "object": "model", "created": 1, "owned_by": "bench"}
    return _response({"object": "list", "data": [card], "status": "ok", "model_id": MODEL})


def openai_answer(tokens: int) -> bytes:
    """Return a `chat.completion` as a whole HTTP response."""
    message = {"role": "assistant", "content": TOKEN * tokens, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    return _response(_envelope("chat.completion", [choice], usage=_usage(tokens)))


def openai_events(tokens: int, *, usage: bool) -> list[bytes]:
    """Return one write per token; the role rides with the first, what ends with the last."""
    events = [_delta({"content": TOKEN})] * tokens
    events[0] = _delta({"role": "assistant", "content": ""}) + events[0]
    end = _delta({}, "length")
    if usage:
        end += _event(_envelope("chat.completion.chunk", [], usage=_usage(tokens)))
    events[-1] += end + _frame(b"[DONE]") + _END
    return events


def native_answer(tokens: int, *, array: bool) -> bytes:
    """Return a text generation with `details` as a whole HTTP response."""
    details = {**_details(tokens), "prefill": [], "tokens": []}
    answer = {"generated_text": TOKEN * tokens, "details": details}
    sizes = f"x-prompt-tokens: {PROMPT_TOKENS}\r\nx-generated-tokens: {tokens}\r\n"
    return _response([answer] if array else answer, headers=sizes)


def native_events(tokens: int) -> list[bytes]:
    """Return one write per token; the last carries the whole text and the details."""
    events = [_native_event(index) for index in range(1, tokens)]
    details = _details(tokens) | {"input_length": PROMPT_TOKENS}
    return [*events, _native_event(tokens, TOKEN * tokens, details) + _END]


def _native_event(index: int, text: str | None = None, details: Any = None) -> bytes:
    token = {"id": 34933, "text": TOKEN, "logprob": -0.25, "special": False}
    return _event({"index": index, "token": token, "generated_text": text, "details": details})


def _details(tokens: int) -> dict[str, Any]:
    return {"finish_reason": "length", "generated_tokens": tokens, "seed": None}


def _delta(content: dict[str, str], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": content, "logprobs": None, "finish_reason": finish_reason}
    return _event(_envelope("chat.completion.chunk", [choice]))


def _envelope(kind: str, choices: list[Any], **more: Any) -> dict[str, Any]:
    head = {"id": "chatcmpl-bench", "object": kind, "created": 1741569952, "model": MODEL}
    return {**head, "choices": choices, **more}


def _usage(tokens: int) -> dict[str, int]:
    total = PROMPT_TOKENS + tokens
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": tokens,
        "total_tokens": total,
    }


def _event(data: Any) -> bytes:
    return _frame(msgspec.json.encode(data))


def _frame(data: bytes) -> bytes:
    """Return one SSE event in an HTTP chunk of its own (RFC 9112 §7.1)."""
    event = b"data: " + data + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(event), event)


def _response(body: Any, *, headers: str = "") -> bytes:
    content = msgspec.json.encode(body)
    head = (
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        f"{headers}content-length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content
