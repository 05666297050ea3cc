"""Speech: WAV that says the words, at the speed and with the seed that were asked for."""

from __future__ import annotations

import io
import wave
from typing import Any

import httpx
import pytest

from adapters.local.voice import parts

MODEL = "/models/hibari-tts/heart"
EAR = "/models/openai/whisper-tiny.en"
SENTENCE = "The gateway turned one request into speech."
# More than the model can take at once, and nowhere a place to breathe.
RUN_ON = "seven yellow windows " * 60


def _speak(client: httpx.Client, inputs: str, **parameters: Any) -> bytes:
    body = {"inputs": inputs, "parameters": {"seed": 1, **parameters}}
    answer = client.post(MODEL, json=body)
    assert answer.status_code == 200, answer.text
    return answer.content


def _seconds(wav: bytes) -> float:
    with wave.open(io.BytesIO(wav)) as file:
        return file.getnframes() / file.getframerate()


def _heard(client: httpx.Client, wav: bytes) -> str:
    text: str = client.post(EAR, content=wav).json()["text"]
    return text


def test_speech_is_16_bit_mono_wav_at_24_khz(pipelines: httpx.Client) -> None:
    answer = pipelines.post(MODEL, json={"inputs": SENTENCE})
    with wave.open(io.BytesIO(answer.content)) as file:
        form = (file.getnchannels(), file.getsampwidth(), file.getframerate())

    assert answer.headers["content-type"] == "audio/wav"
    assert form == (1, 2, 24_000)
    assert 2 < _seconds(answer.content) < 5


@pytest.mark.parametrize(
    "text",
    [
        SENTENCE,
        "The gateway turned one request into speech on this machine. "
        "It needs no account and no network.",
    ],
)
def test_what_is_spoken_is_heard_word_for_word(pipelines: httpx.Client, text: str) -> None:
    assert _heard(pipelines, _speak(pipelines, text)) == text


@pytest.mark.parametrize("speed", [0.5, 2])
def test_the_speed_is_honoured(pipelines: httpx.Client, speed: float) -> None:
    plain, changed = _speak(pipelines, SENTENCE), _speak(pipelines, SENTENCE, speed=speed)

    assert _seconds(changed) == pytest.approx(_seconds(plain) / speed, rel=0.2)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(
    pipelines: httpx.Client,
) -> None:
    first, again, other = (_speak(pipelines, SENTENCE, seed=seed) for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_without_a_seed_each_reading_is_another(pipelines: httpx.Client) -> None:
    one, two = (_speak(pipelines, SENTENCE, seed=None) for _ in range(2))

    assert one != two


def test_the_voice_that_it_has_may_be_named(pipelines: httpx.Client) -> None:
    assert _speak(pipelines, "Hello.", voice="heart") == _speak(pipelines, "Hello.")


def test_a_long_text_without_punctuation_is_read_in_parts(pipelines: httpx.Client) -> None:
    assert _seconds(_speak(pipelines, RUN_ON)) > 40


def test_no_part_is_longer_than_the_model_takes_at_once() -> None:
    words = " ".join(["windows"] * 200)
    unbroken = "w" * 1000

    assert [len(part) <= 400 for part in parts(words)] == [True] * 4
    assert " ".join(parts(words)) == words
    assert [len(part) for part in parts(unbroken)] == [400, 400, 200]


def test_headers_tell_time_and_characters(pipelines: httpx.Client) -> None:
    headers = pipelines.post(MODEL, json={"inputs": "Hello."}).headers

    assert headers["x-compute-type"] == "cpu"
    assert headers["x-compute-characters"] == "6"
    assert 0 < float(headers["x-compute-time"]) < 60


@pytest.mark.parametrize(
    ("fields", "status", "message"),
    [
        ({"inputs": ""}, 422, "`inputs` cannot be empty"),
        ({"inputs": "x" * 4097}, 422, "`inputs` must be <= 4096 characters. Given: 4097"),
        ({"inputs": ["x"]}, 400, "`inputs` must be a string"),
        ({"inputs": "☃"}, 422, "nothing that can be read aloud"),
        ({"inputs": "1" * 200}, 422, "something that cannot be read aloud"),
        ({"inputs": "x", "parameters": {"voice": "emma"}}, 400, "`voice` must be 'heart'"),
        ({"inputs": "x", "parameters": {"voice": 3}}, 400, "`voice` must be 'heart'"),
        ({"inputs": "x", "parameters": {"speed": 0.2}}, 422, "`speed` must be >= 0.25 and <= 4.0"),
        ({"inputs": "x", "parameters": {"speed": "1"}}, 400, "`speed` must be a number"),
        ({"inputs": "x", "parameters": {"seed": 1.5}}, 400, "`seed` must be an integer"),
        ({"inputs": "x", "parameters": {"pitch": 1}}, 400, "`pitch` is not a parameter"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_a_request_that_cannot_be_met_is_refused(
    pipelines: httpx.Client, fields: dict[str, Any], status: int, message: str
) -> None:
    answer = pipelines.post(MODEL, json=fields)

    assert answer.status_code == status
    assert message in answer.json()["error"]
