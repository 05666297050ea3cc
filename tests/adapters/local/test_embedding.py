"""Vectors: their shape, what they mean, and how much of a text goes into them."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import pytest

ID = "sentence-transformers/all-MiniLM-L6-v2"
MODEL = f"/models/{ID}"
LONG = " ".join(f"word{number}" for number in range(400))


def _vectors(client: httpx.Client, inputs: Any, **fields: Any) -> np.ndarray[Any, Any]:
    answer = client.post(MODEL, json={"inputs": inputs, **fields})
    assert answer.status_code == 200, answer.text
    return np.array(answer.json())


def _tokens(client: httpx.Client, inputs: Any) -> int:
    return int(client.post(MODEL, json={"inputs": inputs}).headers["x-prompt-tokens"])


@pytest.mark.parametrize("inputs", ["one text", ["one text"]], ids=["string", "list"])
def test_one_text_is_one_vector_in_a_list(pipelines: httpx.Client, inputs: Any) -> None:
    assert _vectors(pipelines, inputs).shape == (1, 384)


def test_texts_of_one_meaning_are_closer_than_others(pipelines: httpx.Client) -> None:
    eating, bread, baby, cheetah = _vectors(
        pipelines,
        [
            "A man is eating food.",
            "A man is eating a piece of bread.",
            "The girl is carrying a baby.",
            "A cheetah chases its prey across a field.",
        ],
    )

    # The padding that the tokenizer's file asks for would put these far off.
    assert eating @ bread == pytest.approx(0.753, abs=0.03)
    assert eating @ baby == pytest.approx(-0.105, abs=0.05)
    assert eating @ bread > eating @ cheetah + 0.5


def test_a_vector_does_not_depend_on_its_neighbours(pipelines: httpx.Client) -> None:
    alone = _vectors(pipelines, "A fox.")[0]
    among = _vectors(pipelines, [LONG, "A fox.", "!"])[1]

    assert alone.tolist() == among.tolist()


@pytest.mark.parametrize("place", ["root", "parameters"])
def test_normalize_may_be_switched_off_in_either_place(pipelines: httpx.Client, place: str) -> None:
    off = {"normalize": False}
    fields = off if place == "root" else {"parameters": off}
    plain, unit = _vectors(pipelines, "A fox.", **fields)[0], _vectors(pipelines, "A fox.")[0]

    assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-5)
    assert abs(np.linalg.norm(plain) - 1) > 0.01
    assert plain / np.linalg.norm(plain) == pytest.approx(unit, abs=1e-5)


def test_headers_tell_tokens_and_characters(pipelines: httpx.Client) -> None:
    headers = pipelines.post(MODEL, json={"inputs": ["hello world", "fox"]}).headers

    assert headers["x-prompt-tokens"] == "7"  # each text stands between two marks
    assert headers["x-compute-characters"] == "14"
    assert headers["x-compute-type"] == "cpu"
    assert float(headers["x-compute-time"]) > 0


def test_a_long_text_is_cut_at_256_tokens(pipelines: httpx.Client) -> None:
    assert _tokens(pipelines, LONG) == 256
    assert _vectors(pipelines, LONG)[0].tolist() == _vectors(pipelines, LONG + " end")[0].tolist()


def test_a_long_text_may_be_cut_at_its_beginning(pipelines: httpx.Client) -> None:
    left = {"truncation_direction": "Left"}
    one, other = (_vectors(pipelines, text, **left)[0] for text in (LONG, "start " + LONG))

    assert one.tolist() == other.tolist()
    assert one.tolist() != _vectors(pipelines, LONG)[0].tolist()


def test_a_long_text_that_must_not_be_cut_is_refused(pipelines: httpx.Client) -> None:
    answer = pipelines.post(MODEL, json={"inputs": [LONG], "truncate": False})

    assert answer.status_code == 422
    assert "`inputs` must have <= 256 tokens. Given: " in answer.json()["error"]


@pytest.mark.parametrize(
    "path", [f"{MODEL}/pipeline/feature-extraction", f"/pipeline/feature-extraction/{ID}"]
)
def test_the_pipeline_paths_answer_too(pipelines: httpx.Client, path: str) -> None:
    answer = pipelines.post(path, json={"inputs": "A fox."})

    assert answer.json() == _vectors(pipelines, "A fox.").tolist()


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"inputs": []}, 422, "1 to 128 texts. Given: 0"),
        ({"inputs": ["x"] * 129}, 422, "1 to 128 texts. Given: 129"),
        ({"inputs": ""}, 422, "cannot be empty"),
        ({"inputs": ["x", " "]}, 422, "cannot be empty"),
        ({"inputs": "x" * 100_001}, 422, "<= 100000 characters"),
        ({"inputs": {"text": "x"}}, 400, "a string or a list"),
        ({"inputs": [1, 2]}, 400, "must be a string"),
        ({"inputs": [["x"]]}, 400, "must be a string"),
        ({"inputs": None}, 400, "a string or a list"),
        ({"texts": "x"}, 400, "with `inputs`"),
        ({"inputs": "x", "normalize": "yes"}, 400, "`normalize` must be true or false"),
        ({"inputs": "x", "truncation_direction": "up"}, 400, "'left' or 'right'"),
        ({"inputs": "x", "prompt_name": "query"}, 400, "no prompts"),
        ({"inputs": "x", "parameters": {"pooling": "cls"}}, 400, "`pooling` is not a parameter"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_request_that_cannot_be_met_is_refused(
    pipelines: httpx.Client, fields: dict[str, Any], status: int, message: str
) -> None:
    answer = pipelines.post(MODEL, json=fields)

    assert answer.status_code == status
    assert message in answer.json()["error"]


def test_nulls_are_passed_over(pipelines: httpx.Client) -> None:
    nothing = dict.fromkeys(("normalize", "truncate", "truncation_direction", "prompt_name"))

    assert _vectors(pipelines, "A fox.", **nothing) == pytest.approx(_vectors(pipelines, "A fox."))
