"""Embeddings: texts in batches as large as the upstream takes, one list of vectors out of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from adapters.base import Call, Json, Request, Task
from adapters.errors import Interrupted, Misconfigured, Rejected
from gateway import sending
from gateway.amounts import Usage
from gateway.catalog import Model
from gateway.config import Embedding
from gateway.counting import LONG_TEXT, guess_tokens, most_tokens_of
from gateway.errors import BadRequest
from gateway.exchange import Body, Exchange, Route
from gateway.prompts import template_unavailable
from gateway.template_shelf import TemplateShelf
from gateway.templates import TemplateUnavailable
from gateway.tokenizer import Tokenizer
from gateway.vectors import Vector, is_sound, pool, shorten, to_base64

_MOST_CALLS = 4  # under way together for one request
_MANY_TOKENS = 10_000  # decoding more than that leaves the event loop
_MARKS = 2  # the tokens that sentence encoders put around each text


class EmbeddingTask:
    """Answers an exchange with embeddings."""

    def __init__(self, tokenizers: TemplateShelf[Tokenizer]) -> None:
        self._tokenizers = tokenizers

    async def prepare(self, exchange: Exchange, route: Route) -> EmbeddingJob:
        """Return the batches to be sent. Raises GatewayError, DialectError."""
        model, translator = route.model, route.target.upstream.dialect[Task.EMBEDDING]
        finish = _Finish.of(exchange.body, model)
        items = _items(exchange.body["input"])
        if translator.renders:
            items = await self._texts(items, model)
        base = Request(task=Task.EMBEDDING, model=route.target.model, body=finish.upstream_body)
        requests = [
            replace(base, body=base.body | {"input": batch}, prompts=tuple(batch))
            for batch in _batches(items, model.embedding.batch_size)
        ]
        plans = [translator.plan(request) for request in requests]
        exchange.ignored = plans[0].ignored
        tokenizer = self._tokenizers.loaded(model.tokenizer) if model.tokenizer else None
        batches = [
            _Batch(request, plan.calls, tokenizer)
            for request, plan in zip(requests, plans, strict=True)
        ]
        tokens = sum([await batch.most_tokens(exactly=exchange.counts_tokens) for batch in batches])
        return EmbeddingJob(
            exchange=exchange,
            route=route,
            batches=batches,
            finish=finish,
            estimate=Usage(input_tokens=tokens),
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
class EmbeddingJob:
    """The batches of one exchange, and what is done to their vectors."""

    exchange: Exchange
    route: Route
    batches: Sequence[_Batch]
    finish: _Finish
    estimate: Usage

    async def send(self) -> Body:
        """Return the answer. Raises GatewayError, UpstreamError."""
        try:
            with self.exchange.waiting():
                await self._fetch_all()
        finally:
            await self._settle()
        vectors = [vector for batch in self.batches for vector in batch.vectors]
        tokens = self.exchange.usage.input_tokens
        return Body(_render(vectors, model=self.exchange.body["model"], tokens=tokens))

    async def _fetch_all(self) -> None:
        """Have all batches answered. If one fails, the others are ended too."""
        turn = asyncio.Semaphore(_MOST_CALLS)
        try:
            async with asyncio.TaskGroup() as group:
                for batch in self.batches:
                    group.create_task(self._fetch(batch, turn))
        except ExceptionGroup as failures:
            first = failures.exceptions[0]
            if isinstance(first, Rejected) and first.param is None:
                first.param = "input"
            raise first from None

    async def _fetch(self, batch: _Batch, turn: asyncio.Semaphore) -> None:
        async with turn:
            [answer] = await sending.fetch(
                self.route.target, batch.request, batch.calls, wait=self.exchange.wait_for_model
            )
        batch.usage = answer["usage"]
        # Written at once: as Python's numbers they take six times the room of base64.
        batch.vectors = [self.finish(item["embedding"]) for item in answer["data"]]

    async def _settle(self) -> None:
        """Count what was answered, as it was told or else by the tokenizer."""
        answered = [batch for batch in self.batches if batch.usage is not None]
        usage = self.exchange.usage
        usage.input_tokens = sum([await batch.tokens() for batch in answered])
        usage.estimated = any(batch.told_tokens is None for batch in answered)


@dataclass(slots=True)
class _Batch:
    """One call's texts or token arrays. `usage` is None until it was answered; `vectors` are JSON.

    `tokenizer` is the model's, if it is loaded.
    """

    request: Request
    calls: tuple[Call, ...]
    tokenizer: Tokenizer | None
    usage: Json | None = None
    vectors: Sequence[msgspec.Raw] = ()
    counted: int | None = None

    async def most_tokens(self, *, exactly: bool) -> int:
        """Return an upper bound; `exactly`: by the tokenizer, if any."""
        items = self.request.body["input"]
        if (exactly and self.tokenizer) or not isinstance(items[0], str):
            return await self._count()
        return sum(most_tokens_of(text) + _MARKS for text in items)

    async def tokens(self) -> int:
        """Return the tokens of an answered batch: as told, else as counted here."""
        told = self.told_tokens
        return await self._count() if told is None else told

    @property
    def told_tokens(self) -> int | None:
        """What the upstream told, if anything."""
        told: int | None = (self.usage or {}).get("prompt_tokens")
        return told

    async def _count(self) -> int:
        if self.counted is None:
            self.counted = await _count(self.request.body["input"], self.tokenizer)
        return self.counted


@dataclass(frozen=True, slots=True)
class _Finish:
    """What is done to each of an upstream's vectors. `dimensions`: what the client is to get."""

    upstream_body: Json
    model: str
    options: Embedding
    as_base64: bool
    dimensions: int | None
    shortens: bool

    @classmethod
    def of(cls, body: Json, model: Model) -> _Finish:
        """Return it for a request. Raises BadRequest for a length that the model cannot have.

        A length that the model's configuration does not speak of is left to the upstream.
        """
        options, dimensions = model.embedding, body.get("dimensions")
        shortens = dimensions is not None and bool(options.matryoshka or options.dimensions)
        if shortens and options.dimensions and dimensions not in options.dimensions:
            known = ", ".join(map(str, options.dimensions))
            raise BadRequest(
                f"Invalid value for 'dimensions': {dimensions}. Supported values are: {known}.",
                code="invalid_value",
                param="dimensions",
            )
        kept = {k: v for k, v in body.items() if not (shortens and k == "dimensions")}
        as_base64 = body.get("encoding_format") == "base64"
        return cls(kept, model.id, options, as_base64, dimensions, shortens)

    def __call__(self, found: Any) -> msgspec.Raw:
        """Return an upstream's vector, or its vectors per token, as JSON. Raises UpstreamError."""
        vector = self._sized(self._pooled(found))
        try:
            wanted = to_base64(vector) if self.as_base64 else vector
        except OverflowError as exc:
            raise Interrupted("The upstream's embedding holds a number too large.") from exc
        return msgspec.Raw(msgspec.json.encode(wanted))

    def _pooled(self, found: Any) -> Vector:
        per_token = bool(found) and not isinstance(found[0], float)
        rows = found if per_token else [found]
        if len({len(row) for row in rows}) != 1 or not all(map(is_sound, rows)):
            raise Interrupted("The upstream's embedding is empty, uneven or not finite.")
        if not per_token:
            vector: Vector = found
            return vector
        if self.options.pooling is None:
            raise Misconfigured(
                f"The upstream of {self.model!r} answers with one embedding per token: its "
                'operator must set \'embedding.pooling\' to "mean" or "cls".'
            )
        return pool(rows, self.options.pooling)

    def _sized(self, vector: Vector) -> Vector:
        if self.dimensions is None or len(vector) == self.dimensions:
            return vector
        if self.shortens and len(vector) > self.dimensions:
            return shorten(vector, self.dimensions)
        raise BadRequest(
            f"Invalid value for 'dimensions': {self.dimensions}. The model's embeddings have "
            f"{len(vector)}.",
            code="invalid_value",
            param="dimensions",
        )


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


def _batches(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _render(vectors: Sequence[msgspec.Raw], *, model: str, tokens: int) -> bytes:
    """Return OpenAI's list of embeddings."""
    return msgspec.json.encode(
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(vectors)
            ],
            "model": model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )
