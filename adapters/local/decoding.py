"""From llama.cpp's stream chunks to tokens with TGI's stopping rules. Pure: no model, no I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from adapters.local.problems import GenerationFailed
from adapters.local.vocabulary import Vocabulary


class FinishReason(StrEnum):
    LENGTH = "length"
    EOS_TOKEN = "eos_token"  # noqa: S105 (a token of text)
    STOP_SEQUENCE = "stop_sequence"


@dataclass(frozen=True, slots=True)
class Token:
    """A generated token. `text` is empty until the character it belongs to is complete."""

    id: int
    text: str
    logprob: float
    special: bool


@dataclass(frozen=True, slots=True)
class Step:
    """One token, its most likely alternatives (best first), and why it is the last, if it is."""

    token: Token
    top_tokens: tuple[Token, ...] = ()
    finish_reason: FinishReason | None = None


class Decoder:
    """One generation's state. `finished` turns true with the step that has a finish reason."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        max_new_tokens: int,
        stop: Sequence[str] = (),
        top_n_tokens: int = 0,
    ) -> None:
        self._vocabulary = vocabulary
        self._max_new_tokens = max_new_tokens
        self._top_n_tokens = top_n_tokens
        # TGI matches the regex `stop$`, and `$` also matches before a final line break.
        self._endings = tuple(end for text in stop for end in (text, f"{text}\n"))
        self._tail_length = max(map(len, self._endings), default=0)
        self._tail = ""
        self._count = 0
        self.finished = False

    def feed(self, chunk: Mapping[str, Any]) -> list[Step]:
        """Return the steps that `chunk` holds; none after the end. Raises GenerationFailed."""
        if "error" in chunk:
            raise GenerationFailed(str(chunk["error"].get("message", "the engine gave no reason")))
        choice = chunk["choices"][0]
        if choice["logprobs"] is None:  # a report of progress, or the closing chunk
            return []
        return self._steps(choice["text"], choice["logprobs"]["content"][-1])

    def _steps(self, text: str, report: Mapping[str, Any]) -> list[Step]:
        *inner, last = self._vocabulary.restore(text, last=report["id"])
        # llama.cpp gives no logprob to a token that ends inside a character: it gets the one of
        # the token that completes it.
        steps = [self._step(number, "", report) for number in inner]
        steps.append(self._step(last, text or self._special_text(last), report))
        ends = [place for place, step in enumerate(steps) if step.finish_reason]
        return steps[: ends[0] + 1] if ends else steps

    def _step(self, number: int, text: str, report: Mapping[str, Any]) -> Step:
        special = self._vocabulary.is_special(number)
        token = Token(number, text, report["logprob"], special)
        reason = self._finish_reason(token)
        self.finished = self.finished or reason is not None
        return Step(token, self._top_tokens(report), reason)

    def _finish_reason(self, token: Token) -> FinishReason | None:
        """Return why generation ends here. TGI looks at the length first."""
        self._count += 1
        self._tail = (self._tail + token.text)[-self._tail_length :] if self._tail_length else ""
        if self._count >= self._max_new_tokens:
            return FinishReason.LENGTH
        if token.id in self._vocabulary.end_ids:
            return FinishReason.EOS_TOKEN
        if self._endings and self._tail.endswith(self._endings):
            return FinishReason.STOP_SEQUENCE
        return None

    def _top_tokens(self, report: Mapping[str, Any]) -> tuple[Token, ...]:
        known = self._vocabulary
        return tuple(
            Token(top["id"], known.text(top["id"]), top["logprob"], known.is_special(top["id"]))
            for top in report["top_logprobs"][: self._top_n_tokens]
        )

    def _special_text(self, number: int) -> str:
        return self._vocabulary.text(number) if self._vocabulary.is_special(number) else ""
