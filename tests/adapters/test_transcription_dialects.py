"""Transcriptions in each dialect: what is sent, and what comes back."""

from __future__ import annotations

import base64
import json
from email import message_from_bytes
from typing import Any

import pytest

from adapters.base import Call, Media, Request, Task
from adapters.errors import Interrupted, Rejected
from adapters.native_transcription import NativeTranscription
from adapters.openai_transcription import OpenAITranscription

CALL = Call(path="", body=b"")
SOUND = Media(b"fLaC\x00\xff", "audio/flac")


def ask(*, model: str = "openai/whisper-large-v3", **body: Any) -> Request:
    fields = {"model": "alias", "task": "transcribe", **body}
    return Request(task=Task.TRANSCRIPTION, model=model, body=fields, media=SOUND)


def native(**body: Any) -> tuple[Any, tuple[str, ...]]:
    plan = NativeTranscription().plan(ask(**body))
    return json.loads(plan.calls[0].body)["parameters"], plan.ignored


@pytest.mark.parametrize("form", [{}, {"response_format": "json"}, {"response_format": "text"}])
def test_a_sound_alone_goes_as_it_is(form: dict[str, str]) -> None:
    [call] = NativeTranscription().plan(ask(temperature=0.0, stream=True, **form)).calls
    assert (call.path, call.body) == ("/models/openai/whisper-large-v3", SOUND.data)
    assert call.headers == {"content-type": "audio/flac"}


def test_with_parameters_it_goes_in_base64() -> None:
    [call] = NativeTranscription().plan(ask(model="", response_format="srt")).calls
    assert (call.path, call.headers) == ("/", {})
    body = json.loads(call.body)
    assert base64.b64decode(body["inputs"], validate=True) == SOUND.data
    assert body["parameters"] == {"return_timestamps": True}


@pytest.mark.parametrize(
    ("body", "parameters"),
    [
        ({"response_format": "vtt"}, {"return_timestamps": True}),
        ({"response_format": "verbose_json"}, {"return_timestamps": True}),
        (
            {"response_format": "verbose_json", "timestamp_granularities": ["segment", "word"]},
            {"return_timestamps": "word"},
        ),
        ({"language": "de"}, {"generation_parameters": {"language": "de"}}),
        ({"temperature": 0.4}, {"generation_parameters": {"temperature": 0.4}}),
        ({"task": "translate"}, {"generation_parameters": {"task": "translate"}}),
    ],
)
def test_native_parameters(body: dict[str, Any], parameters: dict[str, Any]) -> None:
    assert native(**body) == (parameters, ())


def test_what_the_native_api_cannot_say_is_named() -> None:
    _, ignored = native(language="de", prompt="Names: Ada", include=["logprobs"], hotwords="x")
    assert ignored == ("prompt", "include", "hotwords")


def test_granularities_without_times_are_named() -> None:
    _, ignored = native(response_format="srt", timestamp_granularities=["word"])
    assert ignored == ("timestamp_granularities",)


@pytest.mark.parametrize(
    ("body", "ignored"),
    [({"task": "translate"}, ()), ({"language": "EN"}, ()), ({"language": "de"}, ("language",))],
)
def test_models_for_english_alone_are_told_no_language_and_no_task(
    body: dict[str, Any], ignored: tuple[str, ...]
) -> None:
    plan = NativeTranscription().plan(ask(model="openai/whisper-tiny.en", **body))
    assert (plan.calls[0].body, plan.ignored) == (SOUND.data, ignored)


def answer(dialect: Any, said: object, **body: Any) -> Any:
    content = said if isinstance(said, bytes) else json.dumps(said).encode()
    return dialect.answer(ask(**body), CALL, headers={}, body=content)


CHUNKS = [{"text": " Hi.", "timestamp": [0.0, 1.5]}, {"text": " Ho.", "timestamp": [1.5, None]}]


def test_native_chunks_are_segments_or_words_as_asked() -> None:
    said = {"text": " Hi. Ho.", "chunks": CHUNKS}
    dialect = NativeTranscription()
    assert answer(dialect, said) == {"text": "Hi. Ho."}
    assert answer(dialect, said, response_format="srt") == {"text": "Hi. Ho.", "segments": CHUNKS}
    words = {"response_format": "verbose_json", "timestamp_granularities": ["word"]}
    assert answer(dialect, said, **words) == {"text": "Hi. Ho.", "words": CHUNKS}


BROKEN = [b"", b"[]", b"null", b"<html>", b'{"text": 5}', b'{"chunks": []}']


@pytest.mark.parametrize("dialect", [NativeTranscription(), OpenAITranscription()], ids=type)
@pytest.mark.parametrize("said", BROKEN)
def test_what_holds_no_text_is_an_error(dialect: Any, said: bytes) -> None:
    with pytest.raises(Interrupted):
        answer(dialect, said)


@pytest.mark.parametrize(
    ("dialect", "said"),
    [
        (NativeTranscription(), {"error": "bad sound", "error_type": "validation"}),
        (OpenAITranscription(), {"error": {"message": "bad sound", "code": 400}}),
    ],
)
def test_an_error_under_status_200_is_an_error(dialect: Any, said: object) -> None:
    with pytest.raises(Rejected, match="bad sound"):
        answer(dialect, said)


def form(**body: Any) -> tuple[str, list[tuple[str, str | None, bytes]], tuple[str, ...]]:
    """Return the path, the parts as (name, file name, value) and what was left out."""
    plan = OpenAITranscription().plan(ask(**body))
    [call] = plan.calls
    head = f"Content-Type: {call.headers['content-type']}\r\n\r\n".encode()
    parts = message_from_bytes(head + call.body).get_payload()
    return (
        call.path,
        [
            (
                str(part.get_param("name", header="content-disposition")),
                part.get_filename(),
                part.get_payload(decode=True),
            )
            for part in parts  # type: ignore[union-attr]
        ],
        plan.ignored,
    )


def test_openai_gets_the_clients_fields_and_the_file() -> None:
    path, parts, ignored = form(
        model="whisper-1", language="de", temperature=0.4, stream=True, hotwords="x"
    )
    assert path == "/audio/transcriptions"
    assert {name: value for name, _, value in parts} == {
        "model": b"whisper-1",
        "language": b"de",
        "temperature": b"0.4",
        "hotwords": b"x",
        "response_format": b"json",
        "file": SOUND.data,
    }
    assert parts[-1][:2] == ("file", "audio.flac")
    assert ignored == ()


@pytest.mark.parametrize("wanted", ["srt", "vtt", "verbose_json"])
def test_openai_is_asked_for_times_where_the_client_gets_some(wanted: str) -> None:
    assert ("response_format", None, b"verbose_json") in form(response_format=wanted)[1]


def test_openai_gets_lists_under_their_bracketed_names() -> None:
    granularities = ["word", "segment"]
    _, parts, _ = form(response_format="verbose_json", timestamp_granularities=granularities)
    sent = [value for name, _, value in parts if name == "timestamp_granularities[]"]
    assert sent == [b"word", b"segment"]


def test_openai_translates_at_its_own_path() -> None:
    assert form(task="translate")[0] == "/audio/translations"


def test_a_fields_name_cannot_begin_another_part() -> None:
    evil = 'a"\r\n\r\nx\r\n--'
    _, parts, _ = form(**{evil: "v"})
    assert [name for name, _, _ in parts if name.startswith("a")] == ["a%22%0D%0A%0D%0Ax%0D%0A--"]


def test_openai_times_become_native_chunks() -> None:
    said = {
        "text": "Hi.",
        "language": "german",
        "segments": [{"id": 0, "start": 0.0, "end": 1.0, "text": " Hi.", "avg_logprob": -0.3}],
        "words": [{"word": "Hi.", "start": 0.0, "end": 0.9}],
    }
    made = answer(OpenAITranscription(), said)
    assert made["segments"] == [{"text": " Hi.", "timestamp": [0.0, 1.0]}]
    assert made["words"] == [{"text": "Hi.", "timestamp": [0.0, 0.9]}]
    assert made["whole"] == said
