"""The native API's `/tokenize`: a text's tokens, each with its place in the text."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from gateway.errors import BadRequest
from gateway.native.request import NativeRequest
from gateway.prompts import template_unavailable
from gateway.template_shelf import TemplateShelf
from gateway.templates import Template, TemplateUnavailable
from gateway.tokenizer import Tokenizer
from gateway.upstreams.target import Model

_LONG_TEXT = 4_000  # characters: a millisecond's work
_LONGEST_TEXT = 1_000_000

Tokens = Iterable[tuple[int, tuple[int, int]]]


class Tokenize:
    """Tokenizes with what the gateway counts with: nothing is sent, nothing charged."""

    def __init__(
        self, templates: TemplateShelf[Template], tokenizers: TemplateShelf[Tokenizer]
    ) -> None:
        self._templates = templates
        self._tokenizers = tokenizers

    async def __call__(self, asked: NativeRequest, model: Model) -> bytes:
        """Return the tokens, as JSON. Raises GatewayError where the model's are not known here."""
        text = asked.text
        if len(text) > _LONGEST_TEXT:
            raise BadRequest(
                f"`inputs` must have at most {_LONGEST_TEXT} characters.",
                status=413,
                code="string_above_max_length",
                param="inputs",
            )
        tokenizer = await self._tokenizer(model)
        if len(text) < _LONG_TEXT:
            return _render(tokenizer, text)
        return await asyncio.to_thread(_render, tokenizer, text)

    async def _tokenizer(self, model: Model) -> Template | Tokenizer:
        if model.tokenizer is None:
            raise BadRequest(
                f"The model {model.id!r} has no tokenizer here.",
                status=501,
                code="tokenizer_missing",
                param="model",
            )
        shelf = self._templates if model.task == "chat" else self._tokenizers
        try:
            return await shelf.get(model.tokenizer)
        except TemplateUnavailable as exc:
            raise template_unavailable(exc) from None


def _render(tokenizer: Template | Tokenizer, text: str) -> bytes:
    """Return `[{"id", "text", "start", "stop"}, …]`; special tokens have no place in the text."""
    return msgspec.json.encode(
        [
            {"id": token, "text": text[start:stop], "start": start, "stop": stop}
            for token, (start, stop) in _tokens(tokenizer, text)
        ]
    )


def _tokens(tokenizer: Template | Tokenizer, text: str) -> Tokens:
    if isinstance(tokenizer, Tokenizer):
        return tokenizer.tokens(text)
    encoded = tokenizer.tokenizer(text, return_offsets_mapping=True, verbose=False)
    return zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
