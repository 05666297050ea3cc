"""Tokens used by one request: what its calls told, and a count of what they did not tell."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from adapters.base import Call, Json, Request

_CHARACTERS_PER_TOKEN = 4  # a rough mean, for targets without a tokenizer here
_LONG_TEXT = 20_000  # characters; counting more than that leaves the event loop


class UsageMeter:
    """Adds up the usage of a request's calls. `count` tells a text's tokens, if anything can."""

    def __init__(self, request: Request, *, count: Callable[[str], int] | None) -> None:
        self._request = request
        self._count = count or _guess
        self._told: dict[int, Json] = {}

    def record(self, call: Call, usage: Json, *, text: str = "") -> None:
        """Note what one call told at last. `text`: its answer, counted if it told nothing."""
        if "completion_tokens" not in usage and text:
            usage = usage | {"completion_tokens": self._count(text)}
        self._told[call.index] = usage

    async def total(self) -> Json:
        """Return OpenAI's `usage` of the whole: a prompt counts once, however many choices."""
        if not self._request.prompts:
            return next(iter(self._told.values()), {})
        choices = self._request.body.get("n", 1)
        prompt = 0
        for at, text in enumerate(self._request.prompts):
            told = self._told.get(at * choices, {}).get("prompt_tokens")
            prompt += await self._counted(text) if told is None else told
        completion = sum(usage.get("completion_tokens", 0) for usage in self._told.values())
        return {"prompt_tokens": prompt, "completion_tokens": completion}

    async def _counted(self, text: str) -> int:
        if len(text) < _LONG_TEXT:
            return self._count(text)
        return await asyncio.to_thread(self._count, text)


def _guess(text: str) -> int:
    return -(-len(text) // _CHARACTERS_PER_TOKEN)
