"""Embeddings: texts in batches as large as the upstream takes, one list of vectors out of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from adapters.base import Call, Request, Task
from adapters.errors import Rejected
from gateway.amounts import Usage
from gateway.counting import LONG_TEXT, guess_tokens, most_tokens_of
from gateway.errors import BadRequest
from gateway.exchange import Body, Exchange, Route
from gateway.prompts import template_unavailable
from gateway.tapes import Piece, Recipe, Tape, close_all
from gateway.tasks.fields_without_effect import WITHOUT_EFFECT
from gateway.template_shelf import TemplateShelf
from gateway.templates import TemplateUnavailable
from gateway.together import all_of
from gateway.tokenizer import Tokenizer
from gateway.upstreams import sending
from gateway.upstreams.errand import Errand
from gateway.upstreams.target import Model, Target
from gateway.vector_form import VectorForm

_MOST_CALLS = 4  # under way together for one request
_MANY_TOKENS = 10_000  # decoding more than that leaves the event loop
_MARKS = 2  # the tokens that sentence encoders put around each text


class EmbeddingTask:
    """Answers an exchange with embeddings."""

    def __init__(self, tokenizers: TemplateShelf[Tokenizer]) -> None:
        self._tokenizers = tokenizers

    async def prepare(self, exchange: Exchange, route: Route) -> EmbeddingJob:
        """Return the batches to be sent. Raises GatewayError, DialectError."""
        model, target = route.model, route.target
        form = VectorForm.of(exchange.body, model)
        items = _items(exchange.body["input"])
        if target.upstream.dialect[Task.EMBEDDING].renders:
            items = await self._texts(items, model)
        batches = [*_batches(items, model.embedding.batch_size)]
        errands = [
            exchange.errand(route, _request(exchange, target, form, batch)) for batch in batches
        ]
        plans = [errand.translator.plan(errand.request) for errand in errands]
        exchange.ignored = plans[0].ignored
        turn = asyncio.Semaphore(_MOST_CALLS)
        parts = [
            _Batch(
                errand=errand,
                calls=plan.calls,
                form=form,
                turn=turn,
            )
            for errand, plan in zip(errands, plans, strict=True)
        ]
        tokenizer = self._tokenizers.loaded(model.tokenizer) if model.tokenizer else None
        results = [_Result(batch, tokenizer) for batch in batches]
        exactly = exchange.counts_tokens
        tokens = sum([await result.most_tokens(exactly=exactly) for result in results])
        return EmbeddingJob(
            exchange=exchange, parts=parts, results=results, estimate=Usage(input_tokens=tokens)
        )

    async def _texts(self, items: list[Any], model: Model) -> list[str]:
        """Return the items as texts; those given as tokens are decoded."""
        if isinstance(items[0], str):
            return items
        if model.tokenizer is None:
            raise BadRequest(
                f"The model {model.id!r} has no tokenizer here: send 'input' as text.",
                code="tokenizer_missing",
                param="input",
            )
        try:
            tokenizer = await self._tokenizers.get(model.tokenizer)
        except TemplateUnavailable as exc:
            raise template_unavailable(exc) from None
        decode = partial(tokenizer.decode, param="input")
        if sum(map(len, items)) < _MANY_TOKENS:
            texts = [*map(decode, items)]
        else:
            texts = await asyncio.to_thread(lambda: [*map(decode, items)])
        if not all(texts):
            raise BadRequest(
                "'input' holds tokens that are no text.", code="empty_string", param="input"
            )
        return texts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """One call's texts or token arrays. At most `_MOST_CALLS` of an exchange have their `turn`.

    It yields how many tokens the upstream told of, if it did; then the vectors, each as JSON.
    """

    errand: Errand
    calls: tuple[Call, ...]
    form: VectorForm
    turn: asyncio.Semaphore

    def recipe(self) -> Recipe:
        """Return what the vectors depend on."""
        errand = self.errand
        request = errand.request
        body = {name: value for name, value in request.body.items() if name not in WITHOUT_EFFECT}
        plan = errand.translator.plan(replace(request, body=body))
        return Recipe(calls=plan.calls, form=self.form.obeyed)

    async def make(self) -> AsyncGenerator[Piece]:
        """Have them made, and bring them into their form. Raises BadRequest, UpstreamError."""
        async with self.turn:
            [answer] = await sending.fetch(self.errand, self.calls)
        yield Piece(answer["usage"].get("prompt_tokens"))
        # Written at once: as Python's numbers they take six times the room of base64.
        yield Piece([self.form(item["embedding"]) for item in answer["data"]], is_last=True)

    def is_sound(self, pieces: Sequence[Piece]) -> bool:
        """Tell whether there are vectors."""
        return bool(pieces) and pieces[-1].is_last and len(pieces[-1].content) > 0


@dataclass(slots=True)
class _Result:
    """What came of a batch of `items`. `told`: how many tokens, as the upstream says.

    `tokenizer` is the model's, if it is loaded.
    """

    items: Sequence[Any]
    tokenizer: Tokenizer | None
    is_answered: bool = False
    told: int | None = None
    vectors: Sequence[bytes] = ()
    counted: int | None = None

    async def most_tokens(self, *, exactly: bool) -> int:
        """Return an upper bound; `exactly`: by the tokenizer, if any."""
        if (exactly and self.tokenizer) or not isinstance(self.items[0], str):
            return await self._count()
        return sum(most_tokens_of(text) + _MARKS for text in self.items)

    async def tokens(self) -> int:
        """Return the tokens of an answered batch: as told, else as counted here."""
        return await self._count() if self.told is None else self.told

    async def read(self, tape: Tape) -> None:
        """Take in all of it. Raises GatewayError, UpstreamError."""
        async for piece in tape.pieces():
            if piece.is_last:
                self.vectors = piece.content
            else:
                self.is_answered, self.told = True, piece.content

    async def _count(self) -> int:
        if self.counted is None:
            self.counted = await _count(self.items, self.tokenizer)
        return self.counted


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingJob:
    """What one exchange gets of its batches, a result for each of `parts`."""

    exchange: Exchange
    parts: Sequence[_Batch]
    results: Sequence[_Result]
    estimate: Usage
    is_repeatable: bool = True

    async def answer(self, tapes: Sequence[Tape]) -> Body:
        """Return the answer. Raises GatewayError, UpstreamError."""
        try:
            with self.exchange.waiting():
                await self._read(tapes)
        finally:
            await self._settle()
        vectors = [vector for result in self.results for vector in result.vectors]
        tokens = self.exchange.usage.input_tokens
        return Body(_render(vectors, model=self.exchange.body["model"], tokens=tokens))

    async def _read(self, tapes: Sequence[Tape]) -> None:
        """Have all batches answered. If one fails, the others are ended too."""
        pairs = zip(self.results, tapes, strict=True)
        try:
            await all_of([result.read(tape) for result, tape in pairs])
        except Rejected as exc:
            exc.param = exc.param or "input"
            raise
        finally:
            await close_all(tapes)

    async def _settle(self) -> None:
        """Count what was answered, as it was told or else by the tokenizer."""
        answered = [result for result in self.results if result.is_answered]
        usage = self.exchange.usage
        usage.input_tokens = sum([await result.tokens() for result in answered])
        usage.estimated = any(result.told is None for result in answered)


async def _count(items: Sequence[Any], tokenizer: Tokenizer | None) -> int:
    """Return the tokens of texts or of token arrays."""
    characters = sum(map(len, items))
    if not isinstance(items[0], str):
        return characters
    if tokenizer is None:
        return guess_tokens(characters)
    if characters < LONG_TEXT:
        return tokenizer.count(items)
    return await asyncio.to_thread(tokenizer.count, items)


def _items(given: Any) -> list[Any]:
    """Return the input as a list of texts or of token arrays."""
    return [given] if isinstance(given, str) or isinstance(given[0], int) else given


def _request(exchange: Exchange, target: Target, form: VectorForm, batch: list[Any]) -> Request:
    """Return what a dialect is asked of one batch."""
    return Request(
        task=Task.EMBEDDING,
        model=target.model,
        body=form.upstream_body | {"input": batch},
        prompts=tuple(batch),
        use_cache=exchange.use_upstream_cache,
    )


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _render(vectors: Sequence[bytes], *, model: str, tokens: int) -> bytes:
    """Return OpenAI's list of embeddings."""
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": msgspec.Raw(vector)}
                for index, vector in enumerate(vectors)
            ],
            "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )
