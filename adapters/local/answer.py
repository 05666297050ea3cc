"""Finished and growing generations as text-generation-inference writes them. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from adapters.local.decoding import FinishReason, Step, Token
from adapters.local.vocabulary import Piece
from adapters.local.wire import GenerateRequest

KEEP_ALIVE = b":\n\n"
COMPUTE_TYPE = "cpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """When a request came, was queued, began and ended, in seconds of one clock."""

    arrived_at: float
    queued_at: float
    started_at: float
    ended_at: float


@dataclass(frozen=True, slots=True)
class Result:
    """A generation that came to its end."""

    steps: tuple[Step, ...]
    seed: int | None
    input_length: int

    @property
    def text(self) -> str:
        return generated_text(self.steps)

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.steps[-1].finish_reason

    @property
    def mean_logprob(self) -> float:
        """What `best_of` compares."""
        return sum(step.token.logprob for step in self.steps) / len(self.steps)


def generated_text(steps: Sequence[Step]) -> str:
    """Return the text of `steps` without special tokens; a stop sequence stays in."""
    return "".join(step.token.text for step in steps if not step.token.special)


def render_generation(
    request: GenerateRequest, results: Sequence[Result], *, prefill: Sequence[Piece]
) -> dict[str, Any]:
    """Return TGI's `GenerateResponse` for the best of `results`, which come best first."""
    best, *others = results
    parameters = request.parameters
    prefix = request.inputs if parameters.return_full_text else ""
    answer: dict[str, Any] = {"generated_text": prefix + best.text}
    if not (parameters.details or parameters.decoder_input_details):
        return answer
    details = _details(best)
    if parameters.decoder_input_details:
        details["prefill"] = [_prefill(piece) for piece in prefill]
    if others:
        details["best_of_sequences"] = [
            {"generated_text": prefix + other.text, **_details(other)} for other in others
        ]
    return {**answer, "details": details}


def render_event(
    request: GenerateRequest, steps: Sequence[Step], *, seed: int | None, input_length: int
) -> bytes:
    """Return the frame of the last of `steps`, which are all so far."""
    step = steps[-1]
    event: dict[str, Any] = {"index": len(steps), "token": _token(step.token)}
    if step.top_tokens:
        event["top_tokens"] = [_token(token) for token in step.top_tokens]
    event |= {"generated_text": None, "details": None}
    if step.finish_reason is not None:
        prefix = request.inputs if request.parameters.return_full_text else ""
        event["generated_text"] = prefix + generated_text(steps)
        if request.parameters.details:
            event["details"] = {
                "finish_reason": step.finish_reason,
                "generated_tokens": len(steps),
                "seed": seed,
                "input_length": input_length,
            }
    return frame(msgspec.json.encode(event))


def frame(data: bytes) -> bytes:
    """Return one server-sent event."""
    return b"data: " + data + b"\n\n"


def whole_headers(request: GenerateRequest, result: Result, timings: Timings) -> Mapping[str, str]:
    """Return TGI's headers: `x-compute-time` in seconds, the other times in milliseconds."""
    inference = timings.ended_at - timings.started_at
    milliseconds = {
        "x-total-time": timings.ended_at - timings.arrived_at,
        "x-validation-time": timings.queued_at - timings.arrived_at,
        "x-queue-time": timings.started_at - timings.queued_at,
        "x-inference-time": inference,
        "x-time-per-token": inference / len(result.steps),
    }
    return {
        "x-compute-type": COMPUTE_TYPE,
        "x-compute-time": str(timings.ended_at - timings.arrived_at),
        "x-compute-characters": str(len(request.inputs)),
        **{name: str(int(seconds * 1000)) for name, seconds in milliseconds.items()},
        "x-prompt-tokens": str(result.input_length),
        "x-generated-tokens": str(len(result.steps)),
    }


def stream_headers(request: GenerateRequest) -> Mapping[str, str]:
    """Return the headers of a stream, which are sent before anything is known of it."""
    return {
        "x-compute-type": COMPUTE_TYPE,
        "x-compute-characters": str(len(request.inputs)),
        "x-accel-buffering": "no",
        "cache-control": "no-cache",
    }


def render_pieces(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """Return the answer of `/tokenize`."""
    return [{"id": p.id, "text": p.text, "start": p.start, "stop": p.stop} for p in pieces]


def _details(result: Result) -> dict[str, Any]:
    details: dict[str, Any] = {
        "finish_reason": result.finish_reason,
        "generated_tokens": len(result.steps),
        "seed": result.seed,
        "prefill": [],
        "tokens": [_token(step.token) for step in result.steps],
    }
    if any(step.top_tokens for step in result.steps):
        details["top_tokens"] = [[_token(t) for t in step.top_tokens] for step in result.steps]
    return details


def _token(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "text": token.text,
        "logprob": token.logprob,
        "special": token.special,
    }


def _prefill(piece: Piece) -> dict[str, Any]:
    """Return one prompt token. llama.cpp computes no logprobs of a prompt: they are null."""
    return {"id": piece.id, "text": piece.text, "logprob": None}
