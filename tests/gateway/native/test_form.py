"""Native objects of texts that were made elsewhere."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.base import Task
from adapters.errors import Interrupted
from adapters.native_calls import Operation
from gateway.answers import Head
from gateway.native.form import NativeForm
from gateway.native.request import parse_native

HEAD = Head(task=Task.COMPLETION, id="1", created=0, model="m", fingerprint="fp")
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}


def form(operation: Operation = Operation.PREDICT, **parameters) -> NativeForm:
    body = {"inputs": "Hi", "parameters": parameters}
    data = json.dumps(body).encode()
    asked = parse_native(data, content_type="application/json", operation=operation)
    return NativeForm.of(asked)


def answer(text: str, reason: str | None = "stop") -> dict:
    return {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}


@pytest.mark.parametrize(
    ("operation", "parameters", "text"),
    [
        (Operation.PREDICT, {}, "Hi there"),
        (Operation.PREDICT, {"return_full_text": False}, " there"),
        (Operation.GENERATE, {}, " there"),
        (Operation.GENERATE, {"return_full_text": True}, "Hi there"),
    ],
)
def test_the_prompt_comes_back_by_the_defaults_of_the_path(operation, parameters, text):
    told = json.loads(form(operation, **parameters).whole(HEAD, [answer(" there")], USAGE))
    assert (told if operation else told[0]) == {"generated_text": text}


@pytest.mark.parametrize(("reason", "native"), [("stop", "eos_token"), ("length", "length")])
def test_details_are_told_if_they_are_wanted(reason, native):
    wanted = form(details=True, seed=4)
    [told] = json.loads(wanted.whole(HEAD, [answer("x", reason)], USAGE))
    assert told["details"]["finish_reason"] == native
    assert (told["details"]["generated_tokens"], told["details"]["seed"]) == (2, 4)


def test_forms_that_differ_have_different_names():
    forms = [form(), form(details=True), form(return_full_text=False), form(Operation.GENERATE)]
    assert len({one.name for one in forms}) == len(forms)


@pytest.mark.parametrize("came", [[], [answer("x", "error")]])
def test_what_is_no_answer_is_not_told(came):
    with pytest.raises(Interrupted):
        form().whole(HEAD, came, USAGE)


@given(st.lists(st.text(), max_size=5))
def test_the_tokens_of_a_stream_make_its_text(texts):
    encoder = form(return_full_text=False).encoder(HEAD, choices=1, body={})
    frames = b"".join(encoder.encode(answer(text, None)) for text in texts)
    frames += encoder.encode(answer("", "length")) + encoder.end(USAGE)
    *events, rest = frames.split(b"\n\n")
    told = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert rest == b""
    assert "".join(event["token"]["text"] for event in told) == "".join(texts)
    assert [event["generated_text"] for event in told] == [None] * (len(told) - 1) + [
        "".join(texts)
    ]
    assert [event["index"] for event in told] == [*range(1, len(told) + 1)]


def test_a_stream_without_a_reason_has_no_end():
    encoder = form().encoder(HEAD, choices=1, body={})
    encoder.encode(answer("x", None))
    with pytest.raises(Interrupted):
        encoder.end(USAGE)
