"""Embeddings: texts in batches as large as the upstream takes, one list of vectors out of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec

from adapters.base import Json, Plan, Request, Task
from adapters.errors import Interrupted, Misconfigured, Rejected
from gateway import sending
from gateway.catalog import Model
from gateway.config import Embedding
from gateway.errors import BadRequest
from gateway.exchange import Body, Exchange, Route
from gateway.prompts import template_unavailable
from gateway.template_shelf import TemplateShelf
from gateway.templates import TemplateUnavailable
from gateway.tokenizer import Tokenizer
from gateway.vectors import Vector, is_sound, pool, shorten, to_base64

_MOST_CALLS = 4  # under way together for one request
_LONG_TEXTS = 20_000  # characters; counting more than that leaves the event loop
_MANY_TOKENS = 10_000  # decoding more than that does too
_CHARACTERS_PER_TOKEN = 4  # a rough mean, for models without a tokenizer here


class EmbeddingTask:
    """Answers an exchange with embeddings."""

    def __init__(self, tokenizers: TemplateShelf[Tokenizer]) -> None:
        self._tokenizers = tokenizers

    async def __call__(self, exchange: Exchange, route: Route) -> Body:
        """Return the answer. Raises GatewayError, UpstreamError, DialectError."""
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
        with exchange.waiting():
            batches = await self._fetch_all(exchange, route, requests, plans, finish)
        tokens = sum([await self._tokens(batch, model) for batch in batches])
        exchange.usage["input_tokens"] = tokens
        vectors = [vector for batch in batches for vector in batch.vectors]
        return Body(_render(vectors, model=exchange.body["model"], tokens=tokens))

    async def _fetch_all(
        self,
        exchange: Exchange,
        route: Route,
        requests: Sequence[Request],
        plans: Sequence[Plan],
        finish: _Finish,
    ) -> list[_Batch]:
        """Return the batches in order. If one fails, the others are ended too."""
        turn = asyncio.Semaphore(_MOST_CALLS)

        async def fetch(request: Request, plan: Plan) -> _Batch:
            async with turn:
                answers = await sending.fetch(
                    route.target, request, plan.calls, wait=exchange.wait_for_model
                )
            # Written at once: as Python's numbers they take six times the room of base64.
            vectors = [finish(item["embedding"]) for item in answers[0]["data"]]
            told = answers[0]["usage"].get("prompt_tokens")
            return _Batch(request.body["input"], vectors, told)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(fetch(request, plan))
                    for request, plan in zip(requests, plans, strict=True)
                ]
        except ExceptionGroup as failures:
            first = failures.exceptions[0]
            if isinstance(first, Rejected) and first.param is None:
                first.param = "input"
            raise first from None
        return [task.result() for task in tasks]

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

    async def _tokens(self, batch: _Batch, model: Model) -> int:
        """Return the tokens of a batch: as told, else as counted here."""
        if batch.told_tokens is not None:
            return batch.told_tokens
        if not isinstance(batch.items[0], str):
            return sum(map(len, batch.items))
        characters = sum(map(len, batch.items))
        tokenizer = self._tokenizers.loaded(model.tokenizer) if model.tokenizer else None
        if tokenizer is None:
            return -(-characters // _CHARACTERS_PER_TOKEN)
        if characters < _LONG_TEXTS:
            return tokenizer.count(batch.items)
        return await asyncio.to_thread(tokenizer.count, batch.items)


@dataclass(frozen=True, slots=True)
class _Batch:
    """What one call made of `items`; its `vectors` are JSON."""

    items: Sequence[Any]
    vectors: list[msgspec.Raw]
    told_tokens: int | None


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
