"""The paths of the native API: shapes, headers, loading, memory, and clients that leave."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from adapters.local.text import TextModel, TextSettings
from adapters.local.validation import Limits
from tests.patience import PATIENCE_SECONDS

Events = Callable[[bytes], list[dict[str, Any]]]

_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
HELLO = {"inputs": "Hello", "parameters": {"max_new_tokens": 2}}
ENDLESS: dict[str, Any] = {
    "inputs": "Once upon a time",
    "parameters": {"do_sample": True, "grammar": {"type": "regex", "value": "[a-z ]{9999}"}},
}
FREED_SECONDS = 15
LONG_PROMPT = {"inputs": "word " * 3900, "parameters": {"max_new_tokens": 1}}


@pytest.mark.parametrize("path", ["/", "/models/HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_the_pipeline_path_answers_a_list_with_the_prompt(client: httpx.Client, path: str) -> None:
    [answer] = client.post(path, json=HELLO).json()

    assert list(answer) == ["generated_text"]
    assert answer["generated_text"].startswith("Hello")


@pytest.mark.parametrize(
    "path", ["/generate", "/models/HuggingFaceTB/SmolLM2-135M-Instruct/generate"]
)
def test_generate_answers_an_object_without_the_prompt(client: httpx.Client, path: str) -> None:
    answer = client.post(path, json={**HELLO, "stream": True}).json()

    assert list(answer) == ["generated_text"]
    assert not answer["generated_text"].startswith("Hello")


@pytest.mark.parametrize("path", ["/", "/generate"])
@pytest.mark.parametrize("wanted", [True, False])
def test_return_full_text_is_honoured(client: httpx.Client, path: str, wanted: bool) -> None:
    body = {"inputs": "Hello", "parameters": {"max_new_tokens": 2, "return_full_text": wanted}}
    answer = client.post(path, json=body).json()
    text = (answer[0] if path == "/" else answer)["generated_text"]

    assert text.startswith("Hello") is wanted


def test_stream_is_honoured_on_the_pipeline_path(
    client: httpx.Client, model_path: str, events: Events
) -> None:
    answer = client.post(model_path, json={**HELLO, "stream": True})

    assert answer.headers["content-type"].startswith("text/event-stream")
    assert events(answer.content)[-1]["generated_text"].startswith("Hello")


def test_stream_frames_are_byte_for_byte_tgis(client: httpx.Client, model_path: str) -> None:
    answer = client.post(f"{model_path}/generate_stream", json=HELLO)
    first, last, rest = answer.content.split(b"\n\n")

    assert first.startswith(b'data: {"index":1,"token":{"id":')
    assert first.endswith(b',"special":false},"generated_text":null,"details":null}')
    assert last.startswith(b'data: {"index":2,"token":{"id":')
    assert rest == b""
    assert answer.headers["x-accel-buffering"] == "no"


def test_top_tokens_are_there_only_when_asked_for(client: httpx.Client, events: Events) -> None:
    parameters = {"max_new_tokens": 2, "top_n_tokens": 3}
    asked = client.post("/generate_stream", json={"inputs": "Hello", "parameters": parameters})
    plain = client.post("/generate_stream", json=HELLO)

    assert [len(event["top_tokens"]) for event in events(asked.content)] == [3, 3]
    assert all("top_tokens" not in event for event in events(plain.content))


def test_headers_tell_time_and_tokens(client: httpx.Client) -> None:
    headers = client.post("/generate", json=HELLO).headers

    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == "5"
    assert headers["x-prompt-tokens"] == "1"
    assert headers["x-generated-tokens"] == "2"
    assert 0 < float(headers["x-compute-time"]) < 60
    parts = [int(headers[f"x-{part}-time"]) for part in ("validation", "queue", "inference")]
    assert sum(parts) <= int(headers["x-total-time"])
    assert 2 * int(headers["x-time-per-token"]) <= int(headers["x-inference-time"])


@pytest.mark.parametrize("path", ["/info", "/models/HuggingFaceTB/SmolLM2-135M-Instruct/info"])
def test_info_tells_the_model_and_its_limits(client: httpx.Client, path: str) -> None:
    info = client.get(path).json()

    assert info["model_id"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert info["model_pipeline_tag"] == "text-generation"
    assert (info["max_input_tokens"], info["max_total_tokens"]) == (4095, 4096)
    assert (info["max_stop_sequences"], info["max_best_of"]) == (4, 2)


def test_status_and_health_of_a_ready_model(client: httpx.Client, model_path: str) -> None:
    status = client.get("/status/HuggingFaceTB/SmolLM2-135M-Instruct").json()

    assert (status["loaded"], status["state"]) == (True, "Loaded")
    assert client.get("/health").status_code == 200
    assert client.get(f"{model_path}/health").status_code == 200


@pytest.mark.parametrize("path", ["org/m", "gpt2", "org/m/generate"])
def test_an_unknown_model_is_a_404(client: httpx.Client, path: str) -> None:
    answer = client.post(f"/models/{path}", json=HELLO)
    model_id = path.removesuffix("/generate")

    assert answer.status_code == 404
    assert answer.json() == {"error": f"Model {model_id} does not exist"}


def test_an_unknown_model_has_no_status(client: httpx.Client) -> None:
    assert client.get("/status/org/m").json() == {"error": "Model org/m does not exist"}


@pytest.mark.parametrize("path", ["/generate", "/generate_stream"])
def test_an_answer_is_given_again_byte_for_byte(client: httpx.Client, path: str) -> None:
    body = {"inputs": f"Sea {path}", "parameters": {"do_sample": True, "max_new_tokens": 8}}
    use = {"x-use-cache": "1"}
    first = client.post(path, json=body, headers=use)
    again = client.post(path, json=body, headers=use)

    assert again.content == first.content
    assert again.headers["x-compute-type"] == "cache"
    assert first.headers["x-compute-type"] == "cpu"
    assert again.headers.get("x-compute-time") == first.headers.get("x-compute-time")
    assert again.headers["content-type"] == first.headers["content-type"]


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("", {}),
        ("generate", {"body": {"inputs": "Other"}}),
        ("generate", {"headers": {"x-use-cache": "0"}}),
        ("generate", {"headers": {"x-use-cache": "false"}}),
        ("generate", {"headers": {}, "body": {"options": {"use_cache": False}}}),
    ],
    ids=["path", "payload", "header 0", "header false", "option"],
)
def test_an_answer_is_not_given_again_when(
    client: httpx.Client, path: str, change: dict[str, Any]
) -> None:
    body = {"inputs": "Rain", "parameters": {"max_new_tokens": 2}}
    use = {"x-use-cache": "1"}
    client.post("/generate", json=body, headers=use)
    again = httpx.post(
        f"{client.base_url}/{path}",
        json=body | change.get("body", {}),
        headers=change.get("headers", use),
        trust_env=False,
    )

    assert again.headers["x-compute-type"] == "cpu"


def test_loading_is_a_503_that_can_be_waited_out(serve: Any) -> None:
    hold = {"x-wait-for-model": "1"}
    with serve("--load-delay-seconds", "3", wait=False) as client:
        cold = client.post("/generate", json=HELLO)
        health, status = client.get("/health"), client.get(f"/status/{_ID}").json()
        held = client.post("/generate", json=HELLO, headers=hold)
        warm = client.post("/generate_stream", json=HELLO)

    assert cold.status_code == 503
    assert cold.json()["error"] == f"Model {_ID} is currently loading"
    assert 0 < cold.json()["estimated_time"] <= 4
    assert (health.status_code, health.json()["error_type"]) == (503, "healthcheck")
    assert (status["loaded"], status["state"]) == (False, "Loadable")
    assert held.status_code == warm.status_code == 200


@pytest.fixture(scope="module")
def narrow(serve: Any) -> Iterator[httpx.Client]:
    """A client of a server that generates one thing at a time."""
    with serve("--slots", "1") as client:
        yield client


@pytest.mark.parametrize("body", [ENDLESS, LONG_PROMPT], ids=["generating", "reading the prompt"])
def test_a_stream_that_is_left_frees_its_slot(narrow: httpx.Client, body: dict[str, Any]) -> None:
    """Either would hold the slot for twice as long as is waited here."""
    with narrow.stream("POST", "/generate_stream", json=body) as stream:
        if body is ENDLESS:
            next(stream.iter_bytes())

    assert narrow.post("/generate", json=HELLO, timeout=FREED_SECONDS).status_code == 200


def test_a_whole_answer_that_is_not_waited_for_frees_its_slot(narrow: httpx.Client) -> None:
    with pytest.raises(httpx.ReadTimeout):
        narrow.post("/generate", json=ENDLESS, timeout=0.5)

    assert narrow.post("/generate", json=HELLO, timeout=FREED_SECONDS).status_code == 200


def test_a_request_beyond_the_slots_waits_its_turn(narrow: httpx.Client) -> None:
    first = {**ENDLESS, "parameters": {**ENDLESS["parameters"], "max_new_tokens": 200}}
    with narrow.stream("POST", "/generate_stream", json=first) as stream:
        chunks = stream.iter_bytes()  # held, because letting go of it closes the stream
        next(chunks)
        second = narrow.post("/generate", json=HELLO)

    assert second.status_code == 200
    assert int(second.headers["x-queue-time"]) > 100


def test_a_server_that_is_full_says_so(weights_path: Any, in_thread: Any, events: Events) -> None:
    settings = TextSettings(slots=1, limits=Limits(max_concurrent_requests=1))
    problem = {"error": "Model is overloaded", "error_type": "overloaded"}
    with in_thread(TextModel(settings)) as client:
        client.post("/tokenize", json=HELLO, headers={"x-wait-for-model": "1"})
        with client.stream("POST", "/generate_stream", json=ENDLESS) as stream:
            chunks = stream.iter_bytes()
            next(chunks)
            whole = client.post("/generate", json=HELLO)
            streamed = client.post("/generate_stream", json=HELLO)

    assert (whole.status_code, whole.json()) == (429, problem)
    assert (streamed.status_code, events(streamed.content)) == (200, [problem])


def test_a_model_without_its_weights_is_no_503(
    tmp_path: Any, monkeypatch: Any, in_thread: Any
) -> None:
    monkeypatch.setenv("DRAGOMAN_MODELS_DIR", str(tmp_path))
    with in_thread(TextModel(TextSettings())) as client:
        answer = client.post("/generate", json=HELLO, headers={"x-wait-for-model": "1"})

    assert answer.status_code == 501
    assert "-m adapters.local.weights" in answer.json()["error"]


def test_a_stream_ends_as_incomplete_when_the_server_stops(serve: Any, events: Events) -> None:
    body = bytearray()
    with serve() as client:
        begun = threading.Event()

        def read() -> None:
            with client.stream("POST", "/generate_stream", json=ENDLESS) as stream:
                for chunk in stream.iter_bytes():
                    body.extend(chunk)
                    begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(timeout=PATIENCE_SECONDS)
    reader.join()

    assert events(bytes(body))[-1] == {
        "error": "Incomplete generation",
        "error_type": "incomplete_generation",
    }


def test_a_silent_stream_is_kept_alive_with_comments(
    weights_path: Any, in_thread: Any, events: Events
) -> None:
    settings = TextSettings(slots=1, silence_seconds=0.15)
    prompt = {"inputs": "word " * 1000, "parameters": {"max_new_tokens": 2}}
    with in_thread(TextModel(settings)) as client:
        client.post("/tokenize", json=HELLO, headers={"x-wait-for-model": "1"})
        first, again = (client.post("/generate_stream", json=prompt) for _ in range(2))

    assert first.content.startswith(b":\n\n")
    assert again.headers["x-compute-type"] == "cache"
    assert b":\n\n" not in again.content
    assert events(first.content) == events(again.content)
