"""What servers answer, framed as HTTP."""

from __future__ import annotations

import json
from typing import Any

TOKENS = (" deep", " learning")


def reply(
    body: bytes | Any, *, status: str = "200 OK", kind: str = "application/json", **headers: str
) -> bytes:
    """Return a whole answer; a `body` that is not bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status}", f"content-type: {kind}", f"content-length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in told.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def generated(text: str, *, prompt_tokens: int = 5, tokens: int = 2) -> bytes:
    """Return TGI's whole answer, an array."""
    details = {"finish_reason": "length", "generated_tokens": tokens, "seed": 2**64 - 1}
    headers = {"x_prompt_tokens": str(prompt_tokens), "x_compute_type": "1-a10-g", "x_sha": "abc"}
    return reply([{"generated_text": text, "details": details}], **headers)


def streamed(*payloads: bytes, space: bytes = b" ") -> bytes:
    """Return a whole stream, its events framed with `data:` and this."""
    body = b"".join(b"data:%b%b\n\n" % (space, payload) for payload in payloads)
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-compute-type: 1-a10-g\r\n"
        b"content-length: %d\r\n\r\n%b" % (len(body), body)
    )


def token(text: str) -> bytes:
    """Return an event that is not the last."""
    said = {"id": 7, "text": text, "logprob": -0.5, "special": False}
    return json.dumps({"index": 1, "token": said, "generated_text": None}).encode()


def last(text: str, whole: str) -> bytes:
    """Return the last event, which tells 5 tokens in and 2 out."""
    said = {"id": 8, "text": text, "logprob": -0.5, "special": False}
    details = {"finish_reason": "length", "generated_tokens": 2, "seed": 42, "input_length": 5}
    event = {"index": 2, "token": said, "generated_text": whole, "details": details}
    return json.dumps(event).encode()


STREAM = (token(TOKENS[0]), last(TOKENS[1], "".join(TOKENS)))


def completed(text: str) -> bytes:
    """Return an OpenAI server's completion."""
    choice = {"index": 0, "text": text, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    return reply({"choices": [choice], "usage": usage})


def completed_stream(*texts: str) -> bytes:
    """Return its stream, which ends for its length."""
    chunks = [{"choices": [{"index": 0, "text": text}]} for text in texts]
    chunks.append({"choices": [{"index": 0, "text": "", "finish_reason": "length"}]})
    chunks.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})
    return streamed(*(json.dumps(chunk).encode() for chunk in chunks), b"[DONE]")
