"""Every rule a request can break, told as text-generation-inference tells it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from adapters.local.wire import parse_request

Events = Callable[[bytes], list[dict[str, Any]]]

RULES: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0}, "`temperature` must be strictly positive"),
    ({"temperature": -0.5}, "`temperature` must be strictly positive"),
    ({"repetition_penalty": 0}, "`repetition_penalty` must be strictly positive"),
    ({"frequency_penalty": 2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"frequency_penalty": -2.1}, "`frequency_penalty` must be >= -2.0 and <= 2.0"),
    ({"top_p": 0}, "`top_p` must be > 0.0 and < 1.0"),
    ({"top_p": 1}, "`top_p` must be > 0.0 and < 1.0"),
    ({"typical_p": 1.0}, "`typical_p` must be > 0.0 and < 1.0"),
    ({"top_k": 0}, "`top_k` must be strictly positive"),
    ({"top_k": -1}, "`top_k` must be strictly positive"),
    ({"max_new_tokens": 0}, "`max_new_tokens` must be strictly positive"),
    ({"stop": list("abcde")}, "`stop` supports up to 4 stop sequences. Given: 5"),
    ({"top_n_tokens": 6}, "`top_n_tokens` must be >= 0 and <= 5. Given: 6"),
    ({"truncate": 0}, "`truncate` must be strictly positive and less than 4095. Given: 0"),
    ({"truncate": 4096}, "`truncate` must be strictly positive and less than 4095. Given: 4096"),
    (
        {"max_new_tokens": 4096},
        "`inputs` tokens + `max_new_tokens` must be <= 4096. "
        "Given: 1 `inputs` tokens and 4096 `max_new_tokens`",
    ),
    ({"watermark": True}, "`watermark` is not supported"),
    ({"adapter_id": "org/lora"}, "`adapter_id` is not supported"),
    (
        {"grammar": {"type": "json", "value": {"type": "object"}}},
        "grammar is not valid: Grammar must have a 'properties' field",
    ),
    ({"grammar": {"type": "json", "value": 3}}, "grammar is not supported"),
    (
        {"grammar": {"type": "regex", "value": "(?=a)b"}},
        "grammar is not valid: it cannot be compiled",
    ),
    (
        {"grammar": {"type": "regex", "value": "([0-9"}},
        "grammar is not valid: it cannot be compiled",
    ),
    (
        {"grammar": {"type": "json", "value": {"properties": {"a": {"type": "nonsense"}}}}},
        "grammar is not valid: it cannot be compiled",
    ),
]
ONLY_WHOLE: list[tuple[dict[str, Any], str]] = [
    ({"best_of": 2}, "you must use sampling when `best_of` is > 1"),
    (
        {"best_of": 2, "do_sample": True, "seed": 1},
        "`seed` must not be set when `best_of` > 1",
    ),
    (
        {"best_of": 3, "do_sample": True},
        "`best_of` must be > 0 and <= 2. Given: 3",
    ),
]
ONLY_STREAM: list[tuple[dict[str, Any], str]] = [
    (
        {"best_of": 2, "do_sample": True},
        "`best_of` != 1 is not supported when streaming tokens",
    ),
    (
        {"decoder_input_details": True},
        "`decoder_input_details` == true is not supported when streaming tokens",
    ),
]


def _problem(message: str) -> dict[str, str]:
    return {"error": f"Input validation error: {message}", "error_type": "validation"}


@pytest.mark.parametrize(("parameters", "message"), RULES + ONLY_WHOLE)
@pytest.mark.parametrize("path", ["/", "/generate"])
def test_a_broken_rule_is_a_422(
    client: httpx.Client, path: str, parameters: dict[str, Any], message: str
) -> None:
    answer = client.post(path, json={"inputs": "x", "parameters": parameters})

    assert answer.status_code == 422
    assert answer.json() == _problem(message)


@pytest.mark.parametrize(("parameters", "message"), RULES + ONLY_STREAM)
def test_a_broken_rule_is_the_only_event_of_a_stream(
    client: httpx.Client, events: Events, parameters: dict[str, Any], message: str
) -> None:
    answer = client.post("/generate_stream", json={"inputs": "x", "parameters": parameters})

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events(answer.content) == [_problem(message)]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("", "`inputs` cannot be empty"),
        ("a " * 4095, "`inputs` must have less than 4095 tokens. Given: 4096"),
        (
            "a " * 5000,
            "`inputs` tokens + `max_new_tokens` must be <= 4096. "
            "Given: 5001 `inputs` tokens and 0 `max_new_tokens`",
        ),
    ],
    ids=["empty", "no room for an answer", "longer than the context"],
)
def test_inputs_of_a_wrong_length_are_a_422(
    client: httpx.Client, inputs: str, message: str
) -> None:
    answer = client.post("/generate", json={"inputs": inputs, "parameters": {}})

    assert (answer.status_code, answer.json()) == (422, _problem(message))


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({}, "missing field `inputs`"),
        ([], "invalid type: sequence, expected struct CompatGenerateRequest"),
        ({"inputs": ["x"]}, "inputs: invalid type: sequence, expected a string"),
        (
            {"inputs": "x", "stream": 1},
            "stream: invalid type: integer `1`, expected a boolean",
        ),
        (
            {"inputs": "x", "parameters": None},
            "parameters: invalid type: null, expected struct GenerateParameters",
        ),
    ],
)
def test_a_body_of_the_wrong_shape_is_plain_text(
    client: httpx.Client, body: Any, place: str
) -> None:
    answer = client.post("/", json=body)

    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == f"Failed to deserialize the JSON body into the target type: {place}"


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"temperature": "hot"}, 'temperature: invalid type: string "hot", expected f32'),
        ({"temperature": True}, "temperature: invalid type: boolean `true`, expected f32"),
        (
            {"max_new_tokens": 1.5},
            "max_new_tokens: invalid type: floating point `1.5`, expected u32",
        ),
        ({"max_new_tokens": -1}, "max_new_tokens: invalid value: integer `-1`, expected u32"),
        ({"seed": -1}, "seed: invalid value: integer `-1`, expected u64"),
        ({"seed": 0.5}, "seed: invalid type: floating point `0.5`, expected u64"),
        ({"do_sample": None}, "do_sample: invalid type: null, expected a boolean"),
        ({"stop": "x"}, 'stop: invalid type: string "x", expected a sequence'),
        ({"stop": [1]}, "stop[0]: invalid type: integer `1`, expected a string"),
        ({"top_k": {}}, "top_k: invalid type: map, expected i32"),
        ({"grammar": {"value": "x"}}, "grammar: missing field `type`"),
        (
            {"grammar": {"type": "lark", "value": "x"}},
            "grammar.type: unknown variant `lark`, expected one of `json`, `regex`, `json_schema`",
        ),
        (
            {"grammar": {"type": "json_schema", "value": {}}},
            "grammar.value: missing field `schema`",
        ),
    ],
)
def test_a_parameter_of_the_wrong_type_is_plain_text_even_for_a_stream(
    client: httpx.Client, parameters: dict[str, Any], place: str
) -> None:
    answer = client.post("/generate_stream", json={"inputs": "x", "parameters": parameters})

    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("text/plain")
    assert answer.text == (
        f"Failed to deserialize the JSON body into the target type: parameters.{place}"
    )


def test_null_and_unknown_parameters_are_passed_over(client: httpx.Client) -> None:
    nothing = ("temperature", "top_p", "seed", "grammar", "truncate", "return_full_text")
    parameters = {"max_new_tokens": 1, "invented": 3, **dict.fromkeys(nothing)}
    answer = client.post("/generate", json={"inputs": "x", "parameters": parameters})

    assert answer.status_code == 200


def test_a_body_that_is_no_json_is_a_400(client: httpx.Client) -> None:
    answer = client.post("/", content=b"{", headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert answer.text.startswith("Failed to parse the request body as JSON: ")


def test_a_body_of_another_type_is_a_415(client: httpx.Client) -> None:
    answer = client.post("/", content=b'{"inputs":"x"}', headers={"content-type": "text/plain"})

    assert answer.status_code == 415
    assert answer.text == "Expected request with `Content-Type: application/json`"


def test_a_body_over_two_megabytes_is_a_413(client: httpx.Client) -> None:
    assert client.post("/", json={"inputs": "x" * 2_000_001}).status_code == 413


@pytest.mark.parametrize(
    ("body", "samples"),
    [
        (b'{"inputs":"x"}', True),
        (b'{"inputs":"x","parameters":{}}', False),
        (b'{"inputs":"x","parameters":{"do_sample":true}}', True),
    ],
)
def test_it_samples_by_default_only_without_parameters(body: bytes, samples: bool) -> None:
    request = parse_request(body, content_type="application/json; charset=utf-8")

    assert request.parameters.do_sample is samples
