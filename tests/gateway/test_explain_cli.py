"""`dragoman explain`: the same explanation without a gateway, in JSON or for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main
from gateway.templates import Template
from tests.gateway.dragoman import check_refusal
from tests.gateway.running import TOKENIZER

CHAT = {"model": "local-chat", "messages": [{"role": "user", "content": "Hello"}], "seed": 1}
PROMPT = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"


def explain(sent: Any, *arguments: str | Path) -> Result:
    """Return what the command makes of a request on its standard input."""
    data = sent if isinstance(sent, bytes) else json.dumps(sent).encode()
    return CliRunner().invoke(main, ["explain", *map(str, arguments)], input=data)


def explained(sent: Any, *arguments: str | Path) -> dict[str, Any]:
    """Return the JSON that the command prints, and nothing else."""
    result = explain(sent, "--json", *arguments)
    assert result.exit_code == 0, result.output
    told: dict[str, Any] = json.loads(result.stdout)
    return told


def configuration(folder: Path, *, dialect: str, tokenizer: Path) -> Path:
    """Return a file that configures the model `m`."""
    file = folder / "dragoman.toml"
    file.write_text(
        f'[[upstreams]]\nname = "u"\ndialect = "{dialect}"\nbase_url = "http://127.0.0.1:1"\n'
        f'[[models]]\nid = "m"\ntokenizer = "{tokenizer}"\ntargets = [{{ upstream = "u" }}]\n'
    )
    return file


def test_it_explains_without_configuration_and_leaves_nothing_behind(tmp_path: Path) -> None:
    told = explained(CHAT, "--data-dir", tmp_path / "data")

    assert told["prompts"] == [PROMPT]
    assert told["requests"][0]["body"]["inputs"] == PROMPT
    assert told["cache"]["is_written"]
    assert not (tmp_path / "data").exists()


def test_it_tells_the_same_to_people() -> None:
    told = explained(CHAT)

    shown = explain(CHAT).stdout

    [request], [answer] = told["requests"], told["cache"]["answers"]
    assert f"{request['method']} {request['url']}\n" in shown
    assert json.dumps(request["body"], indent=2) in shown
    assert f"prompt\n{PROMPT}" in shown
    assert f"cache key {answer['key']}" in shown
    assert "looked up, kept for 86400 s" in shown
    assert f"tokens={told['reservation']['amounts']['tokens']}" in shown


def test_it_says_to_people_why_an_answer_is_not_kept() -> None:
    unseeded = {name: value for name, value in CHAT.items() if name != "seed"}
    shown = explain(unseeded).stdout
    assert "not used: it would be drawn anew" in shown
    assert "cache key" not in shown


def test_a_request_may_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(CHAT))
    assert explained(b"", file) == explained(CHAT)


def test_another_model_may_be_asked_for() -> None:
    told = explained({"input": "Hello."}, "--model", "local-embedding")

    assert (told["task"], told["model"]) == (
        "embedding",
        "sentence-transformers/all-MiniLM-L6-v2",
    )
    assert told["prompts"] == []


def test_the_cache_is_that_of_the_key_that_is_named() -> None:
    [nobodys] = explained(CHAT)["cache"]["answers"]
    [somebodys] = explained(CHAT, "--key", "Ab3dEf9h")["cache"]["answers"]

    assert somebodys["made_of"] == nobodys["made_of"] | {"scope": "key.Ab3dEf9h"}
    assert somebodys["key"] != nobodys["key"]


def test_a_route_may_be_named() -> None:
    both = CHAT | {"prompt": "Once"}
    assert explained(both)["task"] == "chat"
    assert explained(both, "--route", "/v1/completions")["task"] == "completion"


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (b"", "JSON"),
        (b"[]", "an object"),
        ({}, "'model'"),
        ({"model": "nope", "prompt": "x"}, "'nope'"),
        (CHAT | {"temperature": 9}, "'temperature'"),
        ({"model": "local-transcription", "file": "x"}, "'transcription'"),
        ({"model": "local-speech", "input": "", "voice": "alloy"}, "'input'"),
    ],
)
def test_a_bad_request_is_refused_in_one_sentence(sent: Any, words: str) -> None:
    result = explain(sent)

    check_refusal(result, words)
    assert result.stderr.count("\n") == 1


def test_the_body_of_a_response_is_explained_as_the_chat_that_it_is() -> None:
    response = {"model": "local-chat", "input": "Hello", "seed": 1, "store": True}

    told = explained(response)

    assert told["prompts"] == [PROMPT]
    assert told["ignored"] == ["store"]


def test_a_bad_configuration_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "dragoman.toml"
    file.write_text("[server]\nprot = 1\n")

    check_refusal(explain(CHAT, "--config", file), "server.prot")


def test_a_bad_route_is_refused() -> None:
    check_refusal(explain(CHAT, "--route", "/v1/x"), "'route'", "/v1/completions")


def test_tokens_are_counted_by_the_models_tokenizer(tmp_path: Path) -> None:
    text = "word " * 100
    file = configuration(tmp_path, dialect="openai", tokenizer=TOKENIZER)

    told = explained({"prompt": text}, "--config", file, "--model", "m")

    counted = Template.load(str(TOKENIZER)).count(text)
    assert counted <= told["reservation"]["estimate"]["input_tokens"] <= counted + 2


def test_a_template_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    file = configuration(tmp_path, dialect="tgi", tokenizer=tmp_path)

    check_refusal(explain(CHAT, "--config", file, "--model", "m"), str(tmp_path))
