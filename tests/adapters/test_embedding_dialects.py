"""Embeddings in each dialect: what is sent, and every shape that comes back."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest

from adapters.base import Call, Request, Task
from adapters.dialects import DIALECTS
from adapters.errors import ContextTooLong, DialectError, Interrupted, Overloaded, Rejected
from adapters.native_embedding import HfEmbedding, TeiEmbedding
from adapters.openai_embedding import OpenAIEmbedding
from adapters.refusals import from_response

CALL = Call(path="", body=b"")
A, B = [0.25, -1.0], [0.5, 2.0]


def ask(*texts: str, model: str = "org/m", **body: Any) -> Request:
    return Request(
        task=Task.EMBEDDING, model=model, body={"input": list(texts), **body}, prompts=texts
    )


def vectors(answer: object, *texts: str, dialect: Any = None) -> list[Any]:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    made = (dialect or HfEmbedding()).answer(ask(*texts), CALL, headers={}, body=body)
    return [item["embedding"] for item in made["data"]]


def test_hf_puts_parameters_beside_the_inputs() -> None:
    request = ask("a", "b", normalize=True, truncate=False, user="u", encoding_format="base64")
    plan = HfEmbedding().plan(request)
    [call] = plan.calls
    assert call.path == "/models/org/m/pipeline/feature-extraction"
    assert json.loads(call.body) == {"inputs": ["a", "b"], "normalize": True, "truncate": False}
    assert plan.ignored == ()


def test_an_endpoint_without_a_model_is_asked_at_its_root() -> None:
    assert HfEmbedding().plan(ask("a", model="")).calls[0].path == "/"


def test_tei_is_asked_at_embed() -> None:
    [call] = TeiEmbedding().plan(ask("a", truncate=True)).calls
    assert (call.path, json.loads(call.body)) == ("/embed", {"inputs": ["a"], "truncate": True})


def test_native_dialects_name_what_they_leave_out() -> None:
    assert HfEmbedding().plan(ask("a", input_type="query")).ignored == ("input_type",)


def test_native_dialects_cannot_shorten() -> None:
    with pytest.raises(DialectError) as raised:
        HfEmbedding().plan(ask("a", dimensions=2))
    assert raised.value.param == "dimensions"


@pytest.mark.parametrize(
    ("answer", "texts", "expected"),
    [
        ([A, B], ["a", "b"], [A, B]),
        ([A], ["a"], [A]),
        (A, ["a"], [A]),
        ([[1, 2]], ["a"], [[1.0, 2.0]]),
        ({"embeddings": [A, B]}, ["a", "b"], [A, B]),
        ({"embeddings": A}, ["a"], [A]),
        ([[A, B]], ["a"], [[A, B]]),
        ([A, B], ["a"], [[A, B]]),
        ([[A, B, A], [B, A]], ["a", "b"], [[A, B, A], [B, A]]),
        ([[[A, B]], [[B, A]]], ["a", "b"], [[A, B], [B, A]]),
    ],
    ids=str,
)
def test_every_native_shape_is_read(answer: object, texts: list[str], expected: Any) -> None:
    assert vectors(answer, *texts) == expected


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[[0.1, NaN]]",
        b"[[Infinity, 0.1]]",
        b"[[1e999]]",
        b"[[null]]",
        b'[["a"]]',
        b"[[true]]",
        b"[]",
        b"null",
        b"<html>",
        b'{"embeddings": [[NaN]]}',
        b'{"embeddings": "none"}',
        b'{"vectors": [[1]]}',
        json.dumps([A, B, A]).encode(),
        json.dumps([[[A], [A]]]).encode(),
    ],
)
def test_what_is_no_embedding_of_each_text_is_an_error(answer: bytes) -> None:
    with pytest.raises(Interrupted):
        vectors(answer, "a", "b")


def test_an_error_under_status_200_is_an_error() -> None:
    with pytest.raises(Rejected, match="too many"):
        vectors({"error": "too many", "error_type": "Validation"}, "a")


@pytest.mark.parametrize("name", ["x-prompt-tokens", "x-compute-tokens"])
def test_the_tokens_that_a_native_server_tells_are_taken(name: str) -> None:
    made = HfEmbedding().answer(ask("a"), CALL, headers={name: "7"}, body=b"[[1]]")
    assert made["usage"] == {"prompt_tokens": 7}


@pytest.mark.parametrize(
    ("status", "said", "kind"),
    [
        (422, {"error": "batch size 64 > 32", "error_type": "Validation"}, Rejected),
        (
            413,
            {
                "error": "`inputs` must have less than 512 tokens. Given: 9",
                "error_type": "Validation",
            },
            ContextTooLong,
        ),
        (429, {"error": "Model is overloaded", "error_type": "Overloaded"}, Overloaded),
        (503, {"error": "unhealthy", "error_type": "Unhealthy"}, Overloaded),
    ],
)
def test_errors_of_tei_are_read(status: int, said: object, kind: type[Exception]) -> None:
    assert type(from_response(status, {}, json.dumps(said).encode())) is kind


def test_openai_gets_the_clients_body_and_its_own_name_of_the_model() -> None:
    body = {"model": "alias", "input": [[1, 2]], "dimensions": 8, "input_type": "query"}
    request = Request(task=Task.EMBEDDING, model="real", body=body)
    plan = OpenAIEmbedding().plan(request)
    assert json.loads(plan.calls[0].body) == body | {"model": "real", "encoding_format": "float"}
    assert (plan.calls[0].path, plan.ignored) == ("/embeddings", ())


def test_openai_is_asked_for_the_form_that_the_client_wants() -> None:
    [call] = OpenAIEmbedding().plan(ask("a", encoding_format="base64")).calls
    assert json.loads(call.body)["encoding_format"] == "base64"


def openai_answer(*embeddings: object, **more: object) -> dict[str, Any]:
    data = [
        {"object": "embedding", "index": index, "embedding": embedding}
        for index, embedding in enumerate(embeddings)
    ]
    return {"object": "list", "data": data, **more}


def test_openai_answers_are_read_as_floats_and_as_base64() -> None:
    packed = base64.b64encode(struct.pack("<2f", *B)).decode()
    answer = openai_answer(A, packed)
    assert list(map(list, vectors(answer, "a", "b", dialect=OpenAIEmbedding()))) == [A, B]


def test_openai_answers_are_put_into_the_order_of_the_input() -> None:
    answer = openai_answer(A, B)
    answer["data"].reverse()
    assert vectors(answer, "a", "b", dialect=OpenAIEmbedding()) == [A, B]


@pytest.mark.parametrize("told", [{"usage": {"prompt_tokens": 3, "total_tokens": 3}}, {}])
def test_openai_usage_is_taken_where_it_is_told(told: dict[str, Any]) -> None:
    body = json.dumps(openai_answer(A, **told)).encode()
    made = OpenAIEmbedding().answer(ask("a"), CALL, headers={}, body=body)
    assert made["usage"] == ({"prompt_tokens": 3} if told else {})


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b'{"data": []}',
        b'{"data": [{"embedding": [NaN]}]}',
        b'{"data": [{"embedding": "AAA"}]}',
        b'{"data": [{"embedding": "AAAA"}]}',
        b'{"data": [{"embedding": "\xc3\xa4"}]}',
        json.dumps(openai_answer(A, A)).encode(),
    ],
)
def test_what_is_no_answer_of_openai_is_an_error(answer: bytes) -> None:
    with pytest.raises(Interrupted):
        vectors(answer, "a", dialect=OpenAIEmbedding())


def test_every_dialect_with_embeddings_is_of_these() -> None:
    kinds = {
        name: type(dialect[Task.EMBEDDING])
        for name, dialect in DIALECTS.items()
        if Task.EMBEDDING in dialect
    }
    assert kinds["hf"] is HfEmbedding
    assert kinds["tei"] is TeiEmbedding
    assert kinds["openai"] is OpenAIEmbedding
