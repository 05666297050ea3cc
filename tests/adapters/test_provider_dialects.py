"""What inference providers are sent where they differ from OpenAI, and how they answer."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from adapters import refusals
from adapters.base import Call, Json, Link, Media, Plan, Request, Task
from adapters.dialects import DIALECTS
from adapters.errors import Failed, Interrupted, Misconfigured, Rejected, TimedOut, UpstreamError

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
DESCRIBED = {"name": "s", "strict": True, "schema": SCHEMA}
FILE = "https://pbxt.replicate.delivery/abc/out-0.webp"
SUCCEEDED = {"id": "p", "status": "succeeded", "error": None, "input": {"prompt": "a fox"}}


def chat(dialect: str, model: str = "org/model", **body: Any) -> Call:
    request = Request(task=Task.CHAT, model=model, body={"messages": [], **body})
    [call] = DIALECTS[dialect][Task.CHAT].plan(request).calls
    return call


def response_format(dialect: str, wanted: Json) -> Json:
    sent: Json = json.loads(chat(dialect, response_format=wanted).body)["response_format"]
    return sent


def image(model: str = "black/flux", **body: Any) -> Request:
    return Request(task=Task.IMAGE, model=model, body={"prompt": "a fox", **body})


def speech(**options: Any) -> Request:
    body = {"model": "m", "input": "Hello", "voice": "af_bella", "speed": 1.5}
    return Request(task=Task.SPEECH, model="jaaari/kokoro", body=body, **options)


def replicate(request: Request) -> Plan:
    return DIALECTS["replicate"][request.task].plan(request)


def answer(body: bytes | Json, request: Request | None = None) -> Json:
    request = request or image()
    translator = DIALECTS["replicate"][request.task]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    call = translator.plan(request).calls[0]
    return translator.answer(request, call, headers={}, body=data)


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("openai", {"type": "json_schema", "json_schema": DESCRIBED}),
        ("chat", {"type": "json_schema", "json_schema": DESCRIBED}),
        ("nscale", {"type": "json_schema", "json_schema": DESCRIBED}),
        ("together", {"type": "json_schema", "schema": SCHEMA}),
        ("fireworks", {"type": "json_object", "schema": SCHEMA}),
        ("hf-inference", {"type": "json_object", "value": SCHEMA}),
    ],
)
def test_each_server_is_told_a_schema_in_its_own_form(dialect: str, expected: Json) -> None:
    assert response_format(dialect, {"type": "json_schema", "json_schema": DESCRIBED}) == expected


@pytest.mark.parametrize(
    ("dialect", "expected"),
    [
        ("openai", {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}),
        ("together", {"type": "json_schema", "schema": SCHEMA}),
        ("hf-inference", {"type": "json_object", "value": SCHEMA}),
    ],
)
def test_a_schema_as_huggingface_hub_tells_it_is_told_to_every_server(
    dialect: str, expected: Json
) -> None:
    assert response_format(dialect, {"type": "json_object", "value": SCHEMA}) == expected


@pytest.mark.parametrize("dialect", ["openai", "together", "fireworks", "hf-inference"])
@pytest.mark.parametrize(
    "wanted",
    [
        {"type": "text"},
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "s"}},
        {"type": "json_schema", "json_schema": "?"},
    ],
)
def test_what_names_no_schema_goes_on_as_it_came(dialect: str, wanted: Json) -> None:
    assert response_format(dialect, wanted) == wanted


def test_what_llama_cpp_takes_goes_on_as_it_came() -> None:
    wanted = {"type": "json_object", "schema": SCHEMA}
    assert response_format("openai", wanted) == wanted


def test_the_clients_own_body_is_left_alone() -> None:
    body = {"messages": [], "response_format": {"type": "json_schema", "json_schema": DESCRIBED}}
    DIALECTS["together"][Task.CHAT].plan(Request(task=Task.CHAT, model="m", body=body))
    assert body["response_format"] == {"type": "json_schema", "json_schema": DESCRIBED}


def test_hf_inference_has_an_address_for_each_model() -> None:
    assert chat("hf-inference").path == "/models/org/model/v1/chat/completions"
    assert chat("hf-inference", model="").path == "/v1/chat/completions"
    assert chat("together").path == "/chat/completions"


def test_the_routers_own_choice_has_chats_only() -> None:
    assert set(DIALECTS["chat"]) == {Task.CHAT}


def test_replicate_is_waited_for_and_told_what_a_picture_is_made_of() -> None:
    request = image(size="512x256", seed=7, n=2, guidance_scale=4.5, style="vivid")
    planned = replicate(request)
    assert planned.ignored == ("style",)
    assert [(call.path, dict(call.headers)) for call in planned.calls] == [
        ("/models/black/flux/predictions", {"prefer": "wait"})
    ] * 2
    assert [json.loads(call.body) for call in planned.calls] == [
        {
            "input": {
                "prompt": "a fox",
                "guidance_scale": 4.5,
                "width": 512,
                "height": 256,
                "seed": seed,
            }
        }
        for seed in (7, 8)
    ]


def test_replicate_is_asked_for_a_version_elsewhere() -> None:
    [call] = replicate(image("stability/sdxl:39ed52f2")).calls
    assert call.path == "/predictions"
    assert json.loads(call.body) == {"input": {"prompt": "a fox"}, "version": "39ed52f2"}


def test_replicate_speaks_with_the_parameters_that_the_model_has() -> None:
    plain = replicate(speech())
    assert json.loads(plain.calls[0].body) == {"input": {"text": "Hello"}}
    assert plain.ignored == ("voice", "speed")
    named = replicate(speech(parameter_names={"voice": "voice", "speed": "rate"}))
    assert json.loads(named.calls[0].body) == {
        "input": {"text": "Hello", "voice": "af_bella", "rate": 1.5}
    }
    assert named.ignored == ()


@pytest.mark.parametrize("output", [FILE, [FILE], [FILE, "https://other.example/2"]])
def test_what_replicate_has_made_is_linked_to(output: Any) -> None:
    link = Link(FILE, ("replicate.delivery",))
    assert answer(SUCCEEDED | {"output": output}) == {"data": [{"media": link}]}
    assert answer(SUCCEEDED | {"output": output}, speech()) == {"media": link}


def test_what_replicate_sends_along_is_taken() -> None:
    inline = "data:audio/wav;base64," + base64.b64encode(b"RIFF").decode()
    assert answer(SUCCEEDED | {"output": inline}, speech()) == {
        "media": Media(b"RIFF", "audio/wav")
    }


@pytest.mark.parametrize(
    ("status", "words"),
    [
        ("starting", "still starting"),
        ("processing", "had not finished"),
        (None, "had not finished"),
    ],
)
def test_a_prediction_that_is_not_finished_has_taken_too_long(
    status: str | None, words: str
) -> None:
    with pytest.raises(TimedOut, match=words):
        answer({"id": "p", "status": status, "output": None})


@pytest.mark.parametrize("output", [[], [5], {"file": FILE}, 5, True])
def test_a_prediction_without_a_file_is_no_answer(output: Any) -> None:
    with pytest.raises(Interrupted, match="holds no file"):
        answer(SUCCEEDED | {"output": output})


def test_a_prediction_that_failed_says_why() -> None:
    with pytest.raises(Failed, match="NSFW content detected"):
        answer({"status": "failed", "error": "NSFW content detected", "output": None})


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>"])
def test_what_is_no_prediction_is_no_answer(body: bytes) -> None:
    with pytest.raises(Interrupted):
        answer(body)


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (422, Rejected, "input: prompt is required"),
        (401, Misconfigured, "refused the gateway itself"),
        (500, Failed, "input: prompt is required"),
    ],
)
def test_a_problem_of_replicates_is_read(
    status: int, kind: type[UpstreamError], words: str
) -> None:
    problem = {"title": "Input", "detail": "input: prompt is required", "status": status}
    error = refusals.from_response(
        status, {"content-type": "application/problem+json"}, json.dumps(problem).encode()
    )
    assert type(error) is kind
    assert words in error.message
