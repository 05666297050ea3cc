"""Native objects of texts that come from servers which do not speak the native API."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from adapters.base import Json
from adapters.errors import Interrupted
from adapters.native_calls import Operation
from gateway.answers import Head, finish_reason_of
from gateway.chunks import StreamEncoder
from gateway.errors import GatewayError
from gateway.native.errors import native_event
from gateway.native.request import NativeRequest
from gateway.text_form import OpenAIForm

_REASONS = {"stop": "eos_token", "length": "length"}
_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeForm:
    """A generated text. `prefix` is what it is told with: its prompt, if that is wanted.

    `is_object`: it comes by itself, not in an array. `name` tells forms of one text apart.
    """

    prefix: str
    is_object: bool
    with_details: bool
    seed: int | None = None

    @property
    def name(self) -> str:
        """The form, in letters."""
        flags = (self.is_object, self.with_details, bool(self.prefix))
        return "native" + "".join("ny"[flag] for flag in flags)

    @classmethod
    def of(cls, asked: NativeRequest) -> NativeForm:
        """Return the form in which a request wants its text."""
        given, is_compatible = asked.parameters, asked.operation is Operation.PREDICT
        is_full = given.get("return_full_text", is_compatible)
        return cls(
            prefix=asked.text if is_full else "",
            is_object=asked.operation is Operation.GENERATE,
            with_details=bool(given.get("details")),
            seed=given.get("seed"),
        )

    def whole(self, head: Head, answers: Sequence[Json], usage: Json) -> bytes:
        """Return the text. Raises Interrupted for an answer that is none or broke off."""
        choice = next((one for answer in answers for one in answer.get("choices") or ()), None)
        if choice is None:
            raise Interrupted("The upstream answered without choices.")
        reason = finish_reason_of(choice.get("finish_reason"), called=False)
        told: Json = {"generated_text": self.prefix + (choice.get("text") or "")}
        if self.with_details:
            told["details"] = self.details(reason, usage) | {"prefill": [], "tokens": []}
        return _encode(told if self.is_object else [told])

    def encoder(self, head: Head, *, choices: int, body: Json) -> NativeEncoder:
        """Return what encodes one stream, of one choice."""
        return NativeEncoder(self)

    def details(self, reason: str, usage: Json) -> Json:
        """Return why a text ended, and how long it is."""
        return {
            "finish_reason": _REASONS.get(reason, reason),
            "generated_tokens": usage.get("completion_tokens") or 0,
            "seed": self.seed,
        }


class NativeEncoder:
    """One stream's events. Token ids are not known, and a token may be several."""

    def __init__(self, form: NativeForm) -> None:
        self.finish: str | None = None
        self._form = form
        self._texts: list[str] = []

    def encode(self, chunk: Json) -> bytes:
        """Return the events of a chunk. Raises Interrupted for a reason that is a failure."""
        events = b""
        for choice in chunk.get("choices") or ():
            if text := choice.get("text"):
                self._texts.append(text)
                events += self._event(_token(text))
            if reason := choice.get("finish_reason"):
                self.finish = self.finish or finish_reason_of(reason, called=False)
        return events

    def end(self, usage: Json) -> bytes:
        """Return the last event, whose token is none. Raises Interrupted before the text's end."""
        if self.finish is None:
            raise Interrupted("The upstream's stream ended before its finish reason.")
        details = self._form.details(self.finish, usage)
        details["input_length"] = usage.get("prompt_tokens") or 0
        text = self._form.prefix + "".join(self._texts)
        return self._event(_token("", special=True), generated_text=text, details=details)

    def fail(self, error: GatewayError) -> bytes:
        """Return the event by which the API's clients choose an exception."""
        return native_event(error)

    def _event(
        self, token: Json, *, generated_text: str | None = None, details: Json | None = None
    ) -> bytes:
        index = len(self._texts) + (generated_text is not None)
        event: dict[str, Any] = {
            "index": index,
            "token": token,
            "generated_text": generated_text,
            "details": details,
        }
        return b"data: %b\n\n" % _encode(event)


class _MessagesEncoder(StreamEncoder):
    def fail(self, error: GatewayError) -> bytes:
        """Return the event that the API's clients raise."""
        return native_event(error)


class MessagesForm(OpenAIForm):
    """OpenAI's objects for clients of the native API: only errors differ."""

    _encoder = _MessagesEncoder


def _token(text: str, *, special: bool = False) -> Json:
    return {"id": 0, "text": text, "logprob": None, "special": special}
