"""`POST /v1/embeddings` as the SDK asks it, over upstreams that keep what they were sent."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import struct
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import tokenizers

from gateway.config import Settings
from gateway.tokenizer import Tokenizer
from tests.gateway.running import Gateway, serving, unstarted_gateway
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

MINILM = Path(__file__).parents[2] / "adapters" / "local" / "tokenizers" / "all-MiniLM-L6-v2"
DIMENSIONS = 4
MODELS: dict[str, dict[str, Any]] = {
    "native": {"tokenizer": str(MINILM)},
    "bare": {},
    "mean": {"embedding": {"pooling": "mean"}},
    "cls": {"embedding": {"pooling": "cls"}},
    "sized": {"embedding": {"dimensions": [2, 4]}},
    "matryoshka": {"embedding": {"matryoshka": True}},
    "small": {"embedding": {"batch_size": 2}},
}


def embedding_of(text: str) -> list[float]:
    """Return a vector that tells which text it is of; 0.1 has no exact float32."""
    return [0.1, float(len(text)), float(sum(map(ord, text))), -2.0]


def embed(request: httpx.Request) -> httpx.Response:
    body = json.loads(request.content)
    if request.url.path.endswith("/embeddings"):
        data = [
            {"index": at, "embedding": embedding_of(str(text))}
            for at, text in enumerate(body["input"])
        ]
        return httpx.Response(200, json={"data": data, "usage": {"prompt_tokens": 5}})
    return httpx.Response(200, json=[embedding_of(text) for text in body["inputs"]])


def answering(body: object, **headers: str) -> Callable[[httpx.Request], httpx.Response]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return lambda _: httpx.Response(200, content=content, headers=headers)


def settings() -> Settings:
    upstreams = [
        {"name": name, "dialect": name, "base_url": "http://127.0.0.1:1"}
        for name in ("hf", "tei", "openai")
    ]
    rows: list[dict[str, Any]] = [
        {"id": name, "task": "embedding", "targets": [{"upstream": "hf"}], **options}
        for name, options in MODELS.items()
    ]
    rows += [
        {"id": name, "task": "embedding", "targets": [{"upstream": name}]}
        for name in ("tei", "openai")
    ]
    rows.append({"id": "chat", "targets": [{"upstream": "openai"}]})
    return Settings(server={"max_body_mb": 2}, upstreams=upstreams, models=rows)


@pytest.fixture(scope="module")
async def served(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Gateway, str]]:
    folder = tmp_path_factory.mktemp("gateway")
    async with unstarted_gateway(folder, settings()) as made, serving(made.app) as port:
        yield made, f"http://127.0.0.1:{port}/v1"


@pytest.fixture
def gateway(served: tuple[Gateway, str]) -> Gateway:
    """The one gateway of all tests here, its upstream as new."""
    upstream = served[0].upstream
    upstream.requests.clear()
    upstream.answer = embed
    return served[0]


@pytest.fixture
def base_url(served: tuple[Gateway, str]) -> str:
    return served[1]


@pytest.fixture
async def sdk(gateway: Gateway, base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=gateway.key, base_url=base_url, max_retries=0) as client:
        yield client


@pytest.fixture
async def http(gateway: Gateway, base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=base_url, headers=gateway.headers) as client:
        yield client


def sent(gateway: Gateway) -> list[Any]:
    return [json.loads(request.content) for request in gateway.upstream.requests]


def float32(numbers: list[float]) -> list[float]:
    return list(struct.unpack(f"<{len(numbers)}f", struct.pack(f"<{len(numbers)}f", *numbers)))


@pytest.mark.parametrize("model", ["native", "tei", "openai"])
async def test_the_sdk_gets_float32_by_its_own_default(sdk: openai.AsyncOpenAI, model: str) -> None:
    answer = await sdk.embeddings.create(model=model, input=["one", "three"])
    assert [item.embedding for item in answer.data] == [
        float32(embedding_of("one")),
        float32(embedding_of("three")),
    ]
    assert [item.index for item in answer.data] == [0, 1]
    assert (answer.object, answer.model) == ("list", model)


async def test_base64_is_little_endian_float32(http: httpx.AsyncClient) -> None:
    body = {"model": "native", "input": "one", "encoding_format": "base64"}
    answer = (await http.post("/embeddings", json=body)).json()
    [item] = answer["data"]
    assert item["embedding"] == base64.b64encode(struct.pack("<4f", *embedding_of("one"))).decode()
    assert item["object"] == "embedding"


@pytest.mark.parametrize("asked", [{}, {"encoding_format": "float"}, {"encoding_format": None}])
async def test_floats_keep_the_upstreams_digits(
    http: httpx.AsyncClient, asked: dict[str, Any]
) -> None:
    answer = await http.post("/embeddings", json={"model": "native", "input": "one", **asked})
    assert answer.json()["data"][0]["embedding"] == [0.1, 3.0, 322.0, -2.0]
    assert answer.headers["content-type"] == "application/json"


async def test_token_arrays_are_decoded_for_native_upstreams(
    gateway: Gateway, sdk: openai.AsyncOpenAI
) -> None:
    # 101 and 102 are the marks at both ends, which the upstream adds itself.
    await sdk.embeddings.create(model="native", input=[[101, 7592, 2088, 102], [2748]])
    assert sent(gateway) == [{"inputs": ["hello world", "yes"]}]
    await sdk.embeddings.create(model="native", input=[7592, 2088])
    assert sent(gateway)[1] == {"inputs": ["hello world"]}


async def test_many_tokens_are_decoded_off_the_loop(
    sdk: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = set()
    decode = Tokenizer.decode

    def noting(self: Tokenizer, ids: list[int], *, param: str) -> str:
        threads.add(threading.current_thread())
        return decode(self, ids, param=param)

    monkeypatch.setattr(Tokenizer, "decode", noting)
    await sdk.embeddings.create(model="native", input=[7592] * 10_000)
    assert threads
    assert threading.main_thread() not in threads


async def test_token_arrays_go_on_as_they_are_to_openai(
    gateway: Gateway, sdk: openai.AsyncOpenAI
) -> None:
    await sdk.embeddings.create(model="openai", input=[[100_000, 7592], [1]])
    assert sent(gateway)[0]["input"] == [[100_000, 7592], [1]]


@pytest.mark.parametrize("ids", [[30_522], [-1], [101, 102]])
async def test_tokens_of_another_tokenizer_are_refused(
    gateway: Gateway, sdk: openai.AsyncOpenAI, ids: list[int]
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await sdk.embeddings.create(model="native", input=[ids])
    assert raised.value.param == "input"
    assert gateway.upstream.requests == []


async def test_tokens_for_a_model_without_a_tokenizer_are_refused(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await sdk.embeddings.create(model="bare", input=[1, 2])
    assert (raised.value.param, raised.value.code) == ("input", "tokenizer_missing")


@pytest.mark.parametrize(
    ("model", "headers", "tokens"),
    [
        ("native", {"x-prompt-tokens": "9"}, 9),
        ("tei", {"x-compute-tokens": "8"}, 8),
        ("native", {}, 4),  # [CLS] hello world [SEP]
        ("bare", {}, 3),  # 11 characters
    ],
)
async def test_usage_is_told_or_counted(
    gateway: Gateway, sdk: openai.AsyncOpenAI, model: str, headers: dict[str, str], tokens: int
) -> None:
    gateway.upstream.answer = answering([[1, 2]], **headers)
    answer = await sdk.embeddings.create(model=model, input="Hello world")
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (tokens, tokens)


async def test_large_inputs_are_sent_in_batches_and_come_back_in_order(
    gateway: Gateway, sdk: openai.AsyncOpenAI
) -> None:
    texts = [f"text {number}" for number in range(25)]
    four_under_way, under_way, most = asyncio.Event(), 0, 0

    async def embed_later(request: httpx.Request) -> httpx.Response:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        if under_way == 4:
            four_under_way.set()
        await asyncio.wait_for(four_under_way.wait(), PATIENCE_SECONDS)
        under_way -= 1
        return embed(request)

    gateway.upstream.answer = embed_later  # type: ignore[assignment]
    answer = await sdk.embeddings.create(model="small", input=texts)
    assert [item.embedding for item in answer.data] == [float32(embedding_of(t)) for t in texts]
    assert [len(body["inputs"]) for body in sent(gateway)] == [2] * 12 + [1]
    assert most == 4


async def test_one_failed_batch_fails_the_request_and_ends_the_others(
    gateway: Gateway, sdk: openai.AsyncOpenAI
) -> None:
    ended = asyncio.Event()

    async def answer(request: httpx.Request) -> httpx.Response:
        if json.loads(request.content)["inputs"] == ["bad"]:
            error = {"error": "`inputs` must have less than 512 tokens. Given: 600"}
            return httpx.Response(413, json=error)
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    gateway.upstream.answer = answer  # type: ignore[assignment]
    with pytest.raises(openai.BadRequestError) as raised:
        await sdk.embeddings.create(model="small", input=["a", "b", "bad"])
    assert (raised.value.code, raised.value.param) == ("context_length_exceeded", "input")
    assert ended.is_set()


@pytest.mark.parametrize(
    ("model", "expected"), [("mean", [0.6, 0.8]), ("cls", [1.0, 0.0])], ids=["mean", "cls"]
)
async def test_token_level_answers_are_pooled_as_configured(
    gateway: Gateway, sdk: openai.AsyncOpenAI, model: str, expected: list[float]
) -> None:
    gateway.upstream.answer = answering([[[3.0, 0.0], [3.0, 2.0], [0.0, 6.0]]])
    answer = await sdk.embeddings.create(model=model, input="a", encoding_format="float")
    assert answer.data[0].embedding == pytest.approx(expected)


async def test_token_level_answers_without_pooling_name_the_key_to_set(
    gateway: Gateway, sdk: openai.AsyncOpenAI
) -> None:
    gateway.upstream.answer = answering([[[1.0, 0.0], [1.0, 2.0]]])
    with pytest.raises(openai.InternalServerError, match=r"'embedding\.pooling'") as raised:
        await sdk.embeddings.create(model="native", input="a")
    assert (raised.value.status_code, raised.value.code) == (502, "upstream_misconfigured")


@pytest.mark.parametrize("model", ["sized", "matryoshka"])
async def test_dimensions_are_cut_and_scaled_to_length_one(
    gateway: Gateway, sdk: openai.AsyncOpenAI, model: str
) -> None:
    gateway.upstream.answer = answering([[3.0, 4.0, 5.0, 6.0]])
    answer = await sdk.embeddings.create(model=model, input="a", dimensions=2)
    assert answer.data[0].embedding == pytest.approx([0.6, 0.8])
    assert math.hypot(*answer.data[0].embedding) == pytest.approx(1)
    assert "dimensions" not in sent(gateway)[0]


async def test_the_models_own_dimensions_leave_the_vector_as_it_is(
    sdk: openai.AsyncOpenAI,
) -> None:
    answer = await sdk.embeddings.create(model="sized", input="one", dimensions=DIMENSIONS)
    assert answer.data[0].embedding == float32(embedding_of("one"))


@pytest.mark.parametrize(
    ("model", "dimensions", "asked"),
    [("native", 4, 0), ("sized", 3, 0), ("matryoshka", 5, 1), ("openai", 2, 1)],
)
async def test_dimensions_that_a_model_cannot_have_are_refused(
    gateway: Gateway, sdk: openai.AsyncOpenAI, model: str, dimensions: int, asked: int
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        await sdk.embeddings.create(model=model, input="a", dimensions=dimensions)
    assert raised.value.param == "dimensions"
    assert len(gateway.upstream.requests) == asked


async def test_an_openai_upstream_gets_dimensions_and_unknown_fields(
    gateway: Gateway, sdk: openai.AsyncOpenAI
) -> None:
    await sdk.embeddings.create(
        model="openai", input="a", dimensions=4, extra_body={"input_type": "query"}
    )
    assert sent(gateway)[0] | {"dimensions": 4, "input_type": "query"} == sent(gateway)[0]


async def test_what_a_native_upstream_cannot_honour_is_named(
    sdk: openai.AsyncOpenAI,
) -> None:
    raw = await sdk.embeddings.with_raw_response.create(
        model="native", input="a", user="u", extra_body={"input_type": "query"}
    )
    assert raw.headers["x-dragoman-ignored"] == "input_type"
    assert raw.headers["x-dragoman-model"] == "native"


NOT_A_NUMBER = base64.b64encode(struct.pack("<2f", 1.0, math.nan)).decode()


@pytest.mark.parametrize(
    ("model", "answer"),
    [
        ("native", b"[[1.0, NaN]]"),
        ("native", b"[[1e300, 0.0]]"),
        ("native", b"[[]]"),
        ("native", b"[[1.0], [1.0]]"),
        ("mean", b"[[[1.0, 2.0], [1.0]]]"),
        ("openai", json.dumps({"data": [{"embedding": NOT_A_NUMBER}]}).encode()),
    ],
)
async def test_vectors_that_are_none_never_reach_the_client(
    gateway: Gateway, sdk: openai.AsyncOpenAI, model: str, answer: bytes
) -> None:
    gateway.upstream.answer = answering(answer)
    with pytest.raises(openai.InternalServerError) as raised:
        await sdk.embeddings.create(model=model, input="a")
    assert raised.value.status_code == 502


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": ["a", ""]}, "input[1]"),
        ({"input": [[]]}, "input[0]"),
        ({"input": ["a", 5]}, "input[1]"),
        ({"input": ["a"] * 2049}, "input"),
        ({"input": 5}, "input"),
        ({"input": [1.5]}, "input[0]"),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ({"input": "a", "dimensions": 0}, "dimensions"),
        ({"input": "a", "dimensions": "4"}, "dimensions"),
        ({"input": "a", "model": 5}, "model"),
    ],
    ids=lambda value: str(value)[:40],
)
async def test_bad_input_is_refused_by_name_before_the_upstream_is_asked(
    gateway: Gateway, http: httpx.AsyncClient, body: dict[str, Any], param: str
) -> None:
    answer = await http.post("/embeddings", json={"model": "native", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert gateway.upstream.requests == []


async def test_a_body_over_the_limit_is_refused(gateway: Gateway, http: httpx.AsyncClient) -> None:
    answer = await http.post("/embeddings", json={"model": "native", "input": "a" * 2**22})
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert gateway.upstream.requests == []


@pytest.mark.parametrize("model", ["chat", "unknown"])
async def test_a_model_of_another_task_is_not_found(sdk: openai.AsyncOpenAI, model: str) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        await sdk.embeddings.create(model=model, input="a")
    assert raised.value.code == "model_not_found"


async def test_a_model_whose_upstream_makes_no_embeddings_is_refused(tmp_path: Path) -> None:
    config = Settings(
        upstreams=[{"name": "tgi", "dialect": "tgi", "base_url": "http://127.0.0.1:1"}],
        models=[{"id": "m", "task": "embedding", "targets": [{"upstream": "tgi"}]}],
    )
    async with unstarted_gateway(tmp_path, config) as made, serving(made.app) as port:
        url = f"http://127.0.0.1:{port}/v1"
        async with openai.AsyncOpenAI(api_key=made.key, base_url=url) as sdk:
            with pytest.raises(openai.BadRequestError) as raised:
                await sdk.embeddings.create(model="m", input="a")
    assert (raised.value.param, raised.value.code) == ("model", "unsupported_task")


def test_tokens_decoded_are_the_same_tokens_again() -> None:
    reference = tokenizers.Tokenizer.from_file(str(MINILM / "tokenizer.json"))
    reference.no_padding()
    ids = reference.encode("The cat sat on the mat, didn't it? Überraschung! 日本").ids
    text = Tokenizer.load(str(MINILM)).decode(ids, param="input")
    assert reference.encode(text).ids == ids
    assert text.startswith("the cat sat on the mat")


def test_long_texts_are_counted_whole() -> None:
    assert Tokenizer.load(str(MINILM)).count(["word " * 1000, "word"]) == 1002 + 3
