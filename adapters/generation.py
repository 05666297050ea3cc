"""Native text generation, answer and stream, as OpenAI's choices: shared by `hf` and `tgi`.

Source: text-generation-inference 3.3, router/src/lib.rs (`GenerateResponse`, `StreamResponse`)
and recorded traffic of older servers, which lack `index`, `details.input_length` or `details`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from adapters import refusals
from adapters.base import Call, Decoder, Json, Plan, Request
from adapters.choice import ChoiceText, whole_choice
from adapters.errors import Interrupted, UpstreamError
from adapters.native import told_count
from adapters.parameters import left_out, native_parameters, samples, seed_of
from adapters.prompt_images import ignored_details, prompts_with_images
from adapters.sse import EventParser

_FINISH_REASONS = {"length": "length", "eos_token": "stop", "stop_sequence": "stop"}


class _Token(msgspec.Struct, frozen=True):
    """One token as the native API names it. A special one is no part of the text."""

    text: str
    logprob: float | None = None
    special: bool = False


class _Sequence(msgspec.Struct, frozen=True):
    """One that was made beside the best."""

    generated_tokens: int = 0


class Details(msgspec.Struct, frozen=True):
    """What is told of one text: `best_of_sequences` are the others that it was chosen from."""

    finish_reason: str | None = None
    generated_tokens: int = 0
    input_length: int | None = None
    tokens: list[_Token] = msgspec.field(default_factory=list)
    top_tokens: list[list[_Token]] | None = None
    best_of_sequences: list[_Sequence] | None = None

    @property
    def reason(self) -> str:
        """OpenAI's `finish_reason`."""
        return _FINISH_REASONS.get(self.finish_reason or "", "stop")

    def usage(self) -> Json:
        """OpenAI's `usage`, as far as it is told here."""
        others = sum(one.generated_tokens for one in self.best_of_sequences or ())
        usage = {"completion_tokens": self.generated_tokens + others}
        return usage if self.input_length is None else usage | {"prompt_tokens": self.input_length}


class Event(msgspec.Struct, frozen=True):
    """One event of a stream. The last one has `generated_text`, and mostly `details`."""

    token: _Token | None = None
    top_tokens: list[_Token] | None = None
    generated_text: str | None = None
    details: Details | None = None
    error: Any = None

    @property
    def is_last(self) -> bool:
        """Whether the upstream has said its last word."""
        return self.details is not None or self.generated_text is not None


class Answer(msgspec.Struct, frozen=True):
    """One whole text."""

    generated_text: str
    details: Details | None = None


_read_event = msgspec.json.Decoder(Event).decode
_read_answer = msgspec.json.Decoder(list[Answer] | Answer).decode


class NativeText:
    """What `hf` and `tgi` have in common: all but the path."""

    renders = True
    says_stream = False  # whether the body says that the answer is to be streamed

    def path(self, request: Request) -> str:
        """Return the path under the upstream's base URL."""
        raise NotImplementedError

    def plan(self, request: Request) -> Plan:
        """Return one call per choice: the native API makes one choice at a time.

        A drawn answer without a client's seed must be drawn anew, so the upstream's own cache
        is passed by (`x-use-cache`): it would answer a repeated payload with the first draw.
        Raises DialectError for what must not be left out in silence.
        """
        ignored = left_out(request.body) + ignored_details(request)
        parameters = native_parameters(request)
        drawn = samples(request.body) and "seed" not in request.body
        path, headers = self.path(request), {"x-use-cache": "0"} if drawn else {}
        choices, prompts = request.body.get("n", 1), prompts_with_images(request)
        total = choices * len(prompts)
        calls = tuple(
            Call(
                path=path,
                headers=headers,
                index=index,
                body=_payload(
                    prompts[index // choices],
                    parameters,
                    seed=seed_of(request.body, index, total),
                    stream=request.stream if self.says_stream else None,
                ),
            )
            for index in range(total)
        )
        return Plan(calls, ignored)

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return `choices` (one) and `usage` of one call's whole answer.

        `usage` lacks what the upstream does not tell. Raises UpstreamError for an error under
        status 200, Interrupted for what is no answer at all.
        """
        generated = parse_answer(body)
        details = generated.details
        choice = whole_choice(
            request,
            call.index,
            text=generated.generated_text,
            tokens=details.tokens if details else (),
            top_tokens=(details and details.top_tokens) or (),
            finish_reason=details.reason if details else "stop",
        )
        usage = details.usage() if details else {}
        if (tokens := told_count(headers, "x-prompt-tokens")) is not None:
            usage["prompt_tokens"] = tokens
        return {"choices": [choice], "usage": usage}

    def decoder(self, request: Request, call: Call) -> Decoder:
        """Return a fresh decoder of one stream."""
        return StreamDecoder(request, call)


class StreamDecoder:
    """One native stream: an event per token, the last with `generated_text` and `details`."""

    __slots__ = ("_choice", "_events", "done", "ended", "failure", "tokens")

    def __init__(self, request: Request, call: Call) -> None:
        self._events = EventParser()
        self._choice = ChoiceText(request, call.index)
        self.tokens = 0
        self.done = self.ended = False
        self.failure: UpstreamError | None = None

    def feed(self, data: bytes) -> list[Json]:
        """Return the chunks completed by `data`. Raises UpstreamError if an error comes first."""
        chunks: list[Json] = []
        try:
            for payload in self._events.feed(data):
                chunks += self._chunks(payload)
        except UpstreamError as exc:
            if not chunks:
                raise
            self.failure = exc
        return chunks

    def end(self) -> list[Json]:
        """Return the chunks of a last event without blank line. Raises Interrupted if cut short."""
        chunks = [chunk for payload in self._events.end() for chunk in self._chunks(payload)]
        if not self.done:
            raise Interrupted("The upstream's stream ended before its last event.")
        return chunks

    def _chunks(self, payload: bytes) -> list[Json]:
        if self.done or payload == b"[DONE]":
            return []
        event = parse_event(payload)
        choices: list[Json] = []
        if event.token is not None:
            self.tokens += 1
            choices = self._choice.add(event.token, event.top_tokens)
        self.ended = event.is_last
        if self.ended or self._choice.stopped:
            return self._last(choices, event.details)
        return [{"choices": [choice]} for choice in choices]

    def _last(self, choices: list[Json], details: Details | None) -> list[Json]:
        """Return the closing chunks. A cut at a stop may come before the upstream's own end."""
        self.done = True
        details = details or Details(generated_tokens=self.tokens)
        choices = choices + self._choice.finish(details.reason)
        usage = {"choices": [], "usage": details.usage()}
        return [*({"choices": [choice]} for choice in choices), usage]


def _payload(prompt: str, parameters: Json, *, seed: int | None, stream: bool | None) -> bytes:
    payload: Json = {"inputs": prompt, "parameters": parameters}
    if seed is not None:
        payload["parameters"] = parameters | {"seed": seed}
    if stream is not None:
        payload["stream"] = stream
    return msgspec.json.encode(payload)


def parse_event(payload: bytes) -> Event:
    """Return the event with this data. Raises UpstreamError for what is none, or is an error."""
    try:
        event = _read_event(payload)
    except msgspec.DecodeError as exc:
        raise Interrupted("The upstream sent an event that cannot be read.") from exc
    if event.error is not None:
        raise refusals.from_object(msgspec.json.decode(payload))
    return event


def parse_answer(body: bytes) -> Answer:
    """Return the first text of an array, or the only one. Raises UpstreamError."""
    try:
        answers = _read_answer(body)
    except msgspec.DecodeError as exc:
        raise refusals.from_unreadable(body, "The upstream's answer cannot be read.") from exc
    if isinstance(answers, Answer):
        return answers
    if not answers:
        raise Interrupted("The upstream answered with an empty list.")
    first: Answer = answers[0]
    return first
