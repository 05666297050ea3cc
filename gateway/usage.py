"""Tokens used by one request: what its calls told, and a count of what they did not tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from adapters.base import Call, Json
from gateway.amounts import Usage
from gateway.counting import Count, count_tokens
from gateway.prompt_size import PromptSize
from gateway.texts import answer_text


@dataclass(slots=True)
class Heard:
    """What came of one call so far.

    `told` is the last `usage`, `texts` what was said since. `tokens`: how many came, where they
    come one by one; then no text is kept.
    """

    tokens: int | None = None
    told: Json = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)

    def add(self, said: Json) -> None:
        """Take in a chunk, or a whole answer."""
        if self.tokens is None:
            for choice in said.get("choices") or ():
                self.texts.append(answer_text(choice))
        if usage := said.get("usage"):
            self.told = usage
            if _told(usage, "completion_tokens") is not None:
                self.texts.clear()

    @property
    def known(self) -> int:
        """How many tokens it has without `texts`."""
        told = _told(self.told, "completion_tokens")
        return (self.tokens or 0) if told is None else told

    @property
    def is_told(self) -> bool:
        """Whether the upstream told how many tokens all that came has."""
        return _told(self.told, "completion_tokens") is not None and not any(self.texts)


class UsageMeter:
    """Adds up the usage of a request's calls into `usage`, the exchange's.

    `choices`: how many there are for each of the prompts. `count` is a tokenizer's.
    """

    def __init__(
        self, usage: Usage, prompts: PromptSize, *, choices: int, count: Count | None
    ) -> None:
        self._usage = usage
        self._prompts = prompts
        self._choices = choices
        self._count = count
        self._heard: dict[int, Heard] = {}

    def note(self, call: Call, said: Iterable[Json], *, tokens: int | None = None) -> None:
        """Take in what came of `call` with one read: chunks, or the whole answer.

        `tokens`: how many have come of it by now, where they come one by one.
        """
        heard = self._heard.get(call.index)
        if heard is None:
            heard = self._heard[call.index] = Heard()
        heard.tokens = tokens
        for each in said:
            heard.add(each)

    async def settle(self) -> Json:
        """Bring `usage` up to date with what came so far, and return it as OpenAI's.

        A prompt counts once, however many choices, and not before anything came of it.
        """
        prompts, calls = self._told_prompts(), self._heard.values()
        prompt = sum(await self._prompt_tokens(prompts))
        completion = sum(heard.known for heard in calls) + await self._count_rest()
        usage = self._usage
        usage.input_tokens, usage.output_tokens = prompt, completion
        usage.estimated = None in prompts.values() or not all(heard.is_told for heard in calls)
        counts = {"prompt_tokens": prompt, "completion_tokens": completion}
        return next(iter(calls)).told | counts if len(calls) == 1 else counts

    def _told_prompts(self) -> dict[int, int | None]:
        """Return what was told of each prompt that something came of."""
        told: dict[int, int | None] = {}
        for index, heard in self._heard.items():
            at = index // self._choices
            if told.get(at) is None:
                told[at] = _told(heard.told, "prompt_tokens")
        return told

    async def _prompt_tokens(self, prompts: dict[int, int | None]) -> list[int]:
        counted = await self._prompts.tokens() if None in prompts.values() else ()
        return [counted[at] if told is None else told for at, told in prompts.items()]

    async def _count_rest(self) -> int:
        """Return the tokens of what was said and not told of, without any around it."""
        texts = [text for heard in self._heard.values() if (text := "".join(heard.texts))]
        around = self._count("") if texts and self._count else 0
        return sum(await count_tokens(texts, self._count)) - around * len(texts)


def _told(usage: Json, name: str) -> int | None:
    tokens = usage.get(name)
    return tokens if isinstance(tokens, int) and tokens >= 0 else None
