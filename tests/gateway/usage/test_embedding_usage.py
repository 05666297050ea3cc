"""What embeddings may use at most, and what they have used whenever they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from adapters.base import Task
from adapters.errors import Failed
from gateway.amounts import Usage
from gateway.exchange import Route
from gateway.tasks.embedding import EmbeddingTask
from gateway.template_shelf import TemplateShelf
from gateway.tokenizer import Tokenizer
from gateway.vectors import is_sound
from tests.gateway.taped import answered
from tests.gateway.usage.gate import exchange, route
from tests.gateway.usage.text_upstream import as_json
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

MINILM = Path(__file__).parents[3] / "adapters" / "local" / "tokenizers" / "all-MiniLM-L6-v2"
TEXTS = ["one", "two words", "three", "four", "five", "the sixth text"]


@pytest.fixture(scope="module")
async def tokenizers(anyio_backend: str) -> AsyncIterator[TemplateShelf[Tokenizer]]:
    async with TemplateShelf([str(MINILM)], load=Tokenizer.load) as shelf:
        await shelf.get(str(MINILM))
        yield shelf


def embed(visit: Visit) -> bytes:
    return as_json([[1.0, float(len(text))] for text in visit.body["inputs"]])


def embedder(upstream: Upstream, *, tokenizer: Path | None = MINILM) -> Route:
    named = {"tokenizer": str(tokenizer)} if tokenizer else {}
    return route(upstream, Task.EMBEDDING, embedding={"batch_size": 2}, **named)


@pytest.mark.parametrize("counts_tokens", [True, False])
@pytest.mark.parametrize("tokenizer", [MINILM, None])
@pytest.mark.parametrize("texts", [TEXTS, ["a"] * 6, ["日本語のテキスト"], "Hello"])
async def test_an_estimate_is_at_least_what_embeddings_use(
    upstream: Upstream,
    tokenizers: TemplateShelf[Tokenizer],
    texts: str | list[str],
    tokenizer: Path | None,
    counts_tokens: bool,
) -> None:
    upstream.play(lambda visit: visit.send(embed(visit)))
    asked = exchange(Task.EMBEDDING, input=texts)
    asked.counts_tokens = counts_tokens
    job = await EmbeddingTask(tokenizers).prepare(asked, embedder(upstream, tokenizer=tokenizer))
    await answered(job)
    assert job.estimate.input_tokens >= asked.usage.input_tokens > 0
    assert asked.usage.estimated


async def test_embedded_tokens_are_told_or_as_many_as_were_sent(
    upstream: Upstream, tokenizers: TemplateShelf[Tokenizer]
) -> None:
    data = [{"embedding": [1.0]}, {"embedding": [1.0]}]
    path = route(upstream, Task.EMBEDDING, dialect="openai")
    for usage, used in (({"prompt_tokens": 9}, Usage(9)), (None, Usage(5, estimated=True))):
        upstream.play(as_json({"data": data, "usage": usage}))
        asked = exchange(Task.EMBEDDING, input=[[1, 2, 3], [4, 5]])
        job = await EmbeddingTask(tokenizers).prepare(asked, path)
        await answered(job)
        assert asked.usage == used
        assert job.estimate == Usage(5)


@pytest.mark.parametrize("ending", ["failed", "left"])
async def test_batches_that_came_were_used_whatever_became_of_the_others(
    upstream: Upstream,
    tokenizers: TemplateShelf[Tokenizer],
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
) -> None:
    came = asyncio.Semaphore(0)

    def noting(vector: Sequence[float]) -> bool:
        came.release()
        return is_sound(vector)

    async def play(visit: Visit) -> None:
        if visit.body["inputs"] != TEXTS[2:4]:
            await visit.send(embed(visit))
        elif ending == "left":
            await visit.gone(within_seconds=5)
        else:
            await all_came()
            await visit.send(as_json({"error": "CUDA error"}, status=500))

    async def all_came() -> None:
        for _ in range(4):  # vectors of the two other batches
            await came.acquire()

    monkeypatch.setattr("gateway.vector_form.is_sound", noting)
    upstream.play(play)
    asked = exchange(Task.EMBEDDING, input=TEXTS)
    job = await EmbeddingTask(tokenizers).prepare(asked, embedder(upstream))
    sending = asyncio.create_task(answered(job))
    if ending == "left":
        await all_came()
        sending.cancel()
    with pytest.raises(asyncio.CancelledError if ending == "left" else Failed):
        await sending
    tokens = (await tokenizers.get(str(MINILM))).count([*TEXTS[:2], *TEXTS[4:]])
    assert asked.usage == Usage(tokens, estimated=True)
