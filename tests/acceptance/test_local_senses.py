"""Embeddings and transcriptions by the real local models, through the gateway, with the SDK."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator

import openai
import pytest

from adapters.local.embedding import EmbeddingModel
from adapters.local.server import create_app
from adapters.local.speech import SpeechModel
from adapters.local.transcription import TranscriptionModel
from gateway.config import Settings
from gateway.local_models import with_local_upstream
from tests.gateway.running import serving
from tests.gateway_fixture import running_gateway

pytestmark = pytest.mark.anyio

SENTENCE = "The gateway turned one request into speech."


@pytest.fixture(scope="module")
async def sdk(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[openai.AsyncOpenAI]:
    local = create_app([EmbeddingModel(), SpeechModel(), TranscriptionModel()])
    async with serving(local) as port:
        settings = with_local_upstream(Settings(), f"http://127.0.0.1:{port}")
        folder = tmp_path_factory.mktemp("gateway")
        async with (
            running_gateway(settings, folder) as gateway,
            openai.AsyncOpenAI(api_key=gateway.key, base_url=gateway.base_url) as client,
        ):
            yield client


@pytest.fixture(scope="module")
async def spoken(sdk: openai.AsyncOpenAI) -> bytes:
    answer = await sdk.audio.speech.create(
        model="local-speech", voice="alloy", input=SENTENCE, response_format="opus"
    )
    return answer.content


def closeness(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


async def test_texts_of_one_meaning_are_close(sdk: openai.AsyncOpenAI) -> None:
    texts = ["A cat sat on the mat.", "A kitten rests on a rug.", "Stock markets fell sharply."]
    answer = await sdk.embeddings.create(model="local-embedding", input=texts)
    cat, kitten, markets = (item.embedding for item in answer.data)
    assert len(cat) == 384
    assert math.hypot(*cat) == pytest.approx(1, abs=1e-5)
    assert closeness(cat, kitten) > 0.5 > 0.2 > closeness(cat, markets)


async def test_tokens_of_a_text_mean_what_the_text_means(sdk: openai.AsyncOpenAI) -> None:
    ids = [101, 1037, 4937, 2938, 2006, 1996, 13523, 1012, 102]
    texts = await sdk.embeddings.create(model="local-embedding", input="A cat sat on the mat.")
    tokens = await sdk.embeddings.create(model="local-embedding", input=ids, dimensions=384)
    assert tokens.data[0].embedding == pytest.approx(texts.data[0].embedding, abs=1e-6)
    assert texts.usage == tokens.usage
    assert tokens.usage.prompt_tokens == len(ids)


async def test_what_one_model_says_another_hears(sdk: openai.AsyncOpenAI, spoken: bytes) -> None:
    answer = await sdk.audio.transcriptions.create(model="local-transcription", file=spoken)
    assert answer.text == SENTENCE


async def test_words_are_heard_in_their_order(sdk: openai.AsyncOpenAI, spoken: bytes) -> None:
    answer = await sdk.audio.transcriptions.create(
        model="local-transcription",
        file=spoken,
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert [word.word for word in answer.words or ()] == SENTENCE.split()
    starts = [word.start for word in answer.words or ()]
    assert starts == sorted(starts)
    assert answer.segments is not None
    assert answer.segments[0].text == SENTENCE
    assert answer.language == "english"
