"""What the model generates, held against llama.cpp itself and against its own other answers."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from typing import Any

import httpx
import pytest

Events = Callable[[bytes], list[dict[str, Any]]]
Render = Callable[[str], str]

STORY = "Once upon a time, in a small town by the sea,"
MIXED = "Numbers 12345, it's  two  spaces\n\n\tTabs, ünï 日本語 🙂 <|im_start|>user"


def _generate(client: httpx.Client, inputs: str, **parameters: Any) -> dict[str, Any]:
    body = {"inputs": inputs, "parameters": {"details": True, "max_new_tokens": 24, **parameters}}
    answer = client.post("/generate", json=body)
    assert answer.status_code == 200, answer.text
    generation: dict[str, Any] = answer.json()
    return generation


def test_knows_the_capital_of_france(client: httpx.Client, chat_prompt: Render) -> None:
    answer = _generate(client, chat_prompt("What is the capital of France?"))

    assert answer["generated_text"] == "The capital of France is Paris."
    assert answer["details"]["finish_reason"] == "eos_token"
    assert answer["details"]["tokens"][-1]["text"] == "<|im_end|>"
    assert answer["details"]["tokens"][-1]["special"] is True


def test_greedy_tokens_and_logprobs_are_those_of_llama_cpp(
    client: httpx.Client, llama_url: str
) -> None:
    ours = _generate(client, STORY, top_n_tokens=3)["details"]
    payload = {"prompt": STORY, "n_predict": 24, "temperature": 0, "n_probs": 3}
    theirs = httpx.post(f"{llama_url}/completion", json=payload, timeout=60).json()

    expected = theirs["completion_probabilities"]
    assert [t["id"] for t in ours["tokens"]] == [t["id"] for t in expected]
    assert [t["logprob"] for t in ours["tokens"]] == pytest.approx(
        [t["logprob"] for t in expected], abs=0.05
    )
    assert [[t["id"] for t in top] for top in ours["top_tokens"]] == [
        [t["id"] for t in token["top_logprobs"]] for token in expected
    ]


def test_prompt_and_completion_tokens_are_llama_cpps_own_count(
    client: httpx.Client, llama_url: str
) -> None:
    body = {"inputs": MIXED, "parameters": {"max_new_tokens": 9}}
    answer = client.post("/generate", json=body)
    payload = {"content": MIXED, "parse_special": True}
    counted = httpx.post(f"{llama_url}/tokenize", json=payload).json()["tokens"]

    assert int(answer.headers["x-prompt-tokens"]) == len(counted)
    assert int(answer.headers["x-generated-tokens"]) == 9


def test_tokenize_gives_llama_cpps_ids_and_their_places(
    client: httpx.Client, llama_url: str
) -> None:
    tokens = client.post("/tokenize", json={"inputs": MIXED}).json()
    payload = {"content": MIXED, "parse_special": True}

    assert [t["id"] for t in tokens] == httpx.post(f"{llama_url}/tokenize", json=payload).json()[
        "tokens"
    ]
    assert all(t["text"] == MIXED[t["start"] : t["stop"]] for t in tokens)


def test_stream_concatenates_to_the_whole_answer(
    client: httpx.Client, chat_prompt: Render, events: Events
) -> None:
    body = {
        "inputs": chat_prompt("What is the capital of Japan?"),
        "parameters": {"details": True, "max_new_tokens": 24},
    }
    whole = client.post("/generate", json=body).json()
    stream = events(client.post("/generate_stream", json=body).content)

    texts = [event["token"]["text"] for event in stream if not event["token"]["special"]]
    assert "".join(texts) == whole["generated_text"] == stream[-1]["generated_text"]
    assert [event["token"] for event in stream] == whole["details"]["tokens"]
    assert [event["index"] for event in stream] == list(range(1, len(stream) + 1))
    assert [event["generated_text"] for event in stream[:-1]] == [None] * (len(stream) - 1)
    assert stream[-1]["details"] == {
        "finish_reason": "eos_token",
        "generated_tokens": len(stream),
        "seed": None,
        "input_length": 16,
    }


def test_same_seed_same_text_and_another_seed_another(client: httpx.Client) -> None:
    def sample(seed: int) -> dict[str, Any]:
        return _generate(client, STORY, temperature=0.9, seed=seed)

    first, again, other, large = sample(7), sample(7), sample(8), sample(2**64 - 1)

    assert first == again
    assert len({a["generated_text"] for a in (first, other, large)}) == 3
    assert large["details"]["seed"] == 2**64 - 1


def test_greedy_is_the_same_alone_and_beside_others(client: httpx.Client) -> None:
    alone = _generate(client, STORY)
    body = {"inputs": "A poem about rain:", "parameters": {"max_new_tokens": 60}}
    with client.stream("POST", "/generate_stream", json=body) as beside:
        chunks = beside.iter_bytes()
        next(chunks)
        together = _generate(client, STORY)

    assert together == alone


@pytest.mark.parametrize(
    ("parameters", "samples"),
    [
        ({}, False),
        ({"temperature": 1.0}, False),
        ({"temperature": 0.5}, True),
        ({"do_sample": True}, True),
        ({"top_k": 5}, True),
        ({"top_p": 0.5}, True),
        ({"typical_p": 0.5}, True),
        ({"seed": 3}, False),
    ],
)
def test_a_seed_is_told_only_when_the_answer_was_sampled(
    client: httpx.Client, parameters: dict[str, Any], samples: bool
) -> None:
    details = _generate(client, "Hello", max_new_tokens=1, **parameters)["details"]

    assert (details["seed"] is not None) is samples


def test_sampling_without_a_seed_differs_from_run_to_run(client: httpx.Client) -> None:
    texts = {_generate(client, STORY, do_sample=True)["generated_text"] for _ in range(3)}

    assert len(texts) == 3


def test_stop_sequence_stays_in_the_text(client: httpx.Client, chat_prompt: Render) -> None:
    prompt = chat_prompt("What is the capital of France?")
    answer = _generate(client, prompt, stop=[" is", "never"])

    assert answer["generated_text"] == "The capital of France is"
    assert answer["details"]["finish_reason"] == "stop_sequence"


def test_stop_sequence_inside_a_token_does_not_stop(
    client: httpx.Client, chat_prompt: Render
) -> None:
    answer = _generate(client, chat_prompt("What is the capital of France?"), stop=["Pari"])

    assert answer["generated_text"] == "The capital of France is Paris."


def test_length_wins_over_a_stop_at_the_same_token(
    client: httpx.Client, chat_prompt: Render
) -> None:
    prompt = chat_prompt("What is the capital of France?")
    answer = _generate(client, prompt, stop=[" capital"], max_new_tokens=2)

    assert answer["generated_text"] == "The capital"
    assert answer["details"]["finish_reason"] == "length"


def test_characters_of_several_tokens_are_counted_and_come_whole(
    client: httpx.Client, events: Events
) -> None:
    """One token of such a character has its text, the others before it have none."""
    body = {
        "inputs": "日本語日本語日本語日本",
        "parameters": {"max_new_tokens": 24, "details": True},
    }
    stream = events(client.post("/generate_stream", json=body).content)

    assert len(stream) == stream[-1]["details"]["generated_tokens"] == 24
    assert "" in [event["token"]["text"] for event in stream]
    assert "語" in stream[-1]["generated_text"]
    assert "\ufffd" not in stream[-1]["generated_text"]


def test_a_length_inside_a_character_leaves_it_out(client: httpx.Client) -> None:
    """The next character takes three tokens, of which one is allowed."""
    answer = _generate(client, "日本語日本語日本語日本", max_new_tokens=1)

    assert answer["generated_text"] == ""
    assert answer["details"]["finish_reason"] == "length"
    assert len(answer["details"]["tokens"]) == 1


def test_repetition_penalty_changes_a_greedy_text(client: httpx.Client) -> None:
    prompt = "one two one two one two one two"
    plain, penalised = (
        _generate(client, prompt, **parameters)["generated_text"]
        for parameters in ({}, {"repetition_penalty": 1.8})
    )

    assert plain.count("one") > penalised.count("one")


def test_frequency_penalty_changes_a_greedy_text(client: httpx.Client) -> None:
    prompt = "one two one two one two one two"

    assert (
        _generate(client, prompt, frequency_penalty=2.0)["generated_text"]
        != (_generate(client, prompt)["generated_text"])
    )


def test_truncate_keeps_the_end_of_the_input(client: httpx.Client) -> None:
    parameters = {"max_new_tokens": 6}
    end = client.post("/generate", json={"inputs": " by the sea,", "parameters": parameters})
    parameters["truncate"] = 4
    cut = client.post("/generate", json={"inputs": STORY, "parameters": parameters})

    assert cut.headers["x-prompt-tokens"] == end.headers["x-prompt-tokens"] == "4"
    assert cut.json() == end.json()


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
}


@pytest.mark.parametrize(
    "grammar",
    [
        {"type": "json", "value": SCHEMA},
        {"type": "json", "value": json.dumps(SCHEMA)},
        {"type": "json_object", "value": SCHEMA},
        {"type": "json_schema", "value": {"name": "person", "schema": SCHEMA}},
    ],
    ids=["json", "json as a string", "json_object", "json_schema"],
)
def test_json_grammar_gives_json_of_the_schema(
    client: httpx.Client, chat_prompt: Render, grammar: dict[str, Any]
) -> None:
    prompt = chat_prompt("Describe a person as JSON.")
    answer = _generate(client, prompt, grammar=grammar, max_new_tokens=60)
    person = json.loads(answer["generated_text"])

    assert set(person) == {"name", "age"}
    assert isinstance(person["age"], int)


def test_regex_grammar_gives_a_match(client: httpx.Client, chat_prompt: Render) -> None:
    pattern = r"(\d{1,3}\.){3}\d{1,3}/\d\d"
    prompt = chat_prompt("Give me an IP network.")
    answer = _generate(client, prompt, grammar={"type": "regex", "value": pattern})

    assert re.fullmatch(pattern, answer["generated_text"])


def test_best_of_gives_the_likeliest_first(client: httpx.Client) -> None:
    answer = _generate(client, STORY, best_of=2, do_sample=True)
    other = answer["details"]["best_of_sequences"][0]

    def mean(tokens: list[dict[str, Any]]) -> float:
        return statistics.fmean(token["logprob"] for token in tokens)

    assert mean(answer["details"]["tokens"]) >= mean(other["tokens"])
    assert answer["details"]["seed"] != other["seed"]


def test_decoder_input_details_list_the_prompt(client: httpx.Client) -> None:
    answer = _generate(client, "Hello world", max_new_tokens=1, decoder_input_details=True)

    assert [token["text"] for token in answer["details"]["prefill"]] == ["Hello", " world"]
