"""Transcription: audio of any common kind in, its words and their times out."""

from __future__ import annotations

import base64
import io
import wave
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from adapters.local.audio import decode
from adapters.local.problems import Malformed
from adapters.local.transcription import TranscriptionModel, TranscriptionSettings

MODEL = "/models/openai/whisper-tiny.en"
SENTENCE = "The gateway turned one request into speech."
WAITING = {"x-wait-for-model": "1"}


@pytest.fixture(scope="module")
def spoken(pipelines: httpx.Client) -> bytes:
    """A WAV of SENTENCE, three seconds long."""
    body = {"inputs": SENTENCE, "parameters": {"seed": 1}}
    return pipelines.post("/models/hibari-tts/heart", json=body).content


def _encoded(wav: bytes, *, container: str, codec: str) -> bytes:
    target = io.BytesIO()
    with av.open(io.BytesIO(wav)) as source, av.open(target, "w", format=container) as sink:
        stream = sink.add_stream(codec, rate=24_000)
        for frame in source.decode(audio=0):
            sink.mux(stream.encode(frame))
        sink.mux(stream.encode(None))
    return target.getvalue()


def _silence(seconds: int, *, channels: int = 2) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(channels)
        writer.setsampwidth(2)
        writer.setframerate(8_000)
        writer.writeframes(bytes(2 * channels * 8_000 * seconds))
    return file.getvalue()


def _as_json(audio: bytes, **parameters: Any) -> dict[str, Any]:
    return {"inputs": base64.b64encode(audio).decode(), "parameters": parameters}


@pytest.mark.parametrize("content_type", [None, "audio/mpeg"])
def test_raw_audio_is_heard_whatever_its_type_is_said_to_be(
    pipelines: httpx.Client, spoken: bytes, content_type: str | None
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    answer = pipelines.post(MODEL, content=spoken, headers=headers)

    assert answer.json() == {"text": SENTENCE}


@pytest.mark.parametrize(
    ("container", "codec"),
    [("mp3", "libmp3lame"), ("flac", "flac"), ("webm", "libopus"), ("mov", "aac")],
)
def test_common_formats_are_heard(
    pipelines: httpx.Client, spoken: bytes, container: str, codec: str
) -> None:
    audio = _encoded(spoken, container=container, codec=codec)

    assert pipelines.post(MODEL, content=audio).json() == {"text": SENTENCE}


def test_audio_may_come_in_base64(pipelines: httpx.Client, spoken: bytes) -> None:
    assert pipelines.post(MODEL, json=_as_json(spoken)).json() == {"text": SENTENCE}


def test_segments_have_times(pipelines: httpx.Client, spoken: bytes) -> None:
    body = _as_json(spoken, return_timestamps=True)
    answer = pipelines.post(MODEL, json=body).json()
    [chunk] = answer["chunks"]
    start, end = chunk["timestamp"]

    assert chunk["text"].strip() == answer["text"] == SENTENCE
    assert 0 <= start < 1 and 2 < end < 4


def test_words_have_times_in_order(pipelines: httpx.Client, spoken: bytes) -> None:
    body = _as_json(spoken, return_timestamps="word")
    answer = pipelines.post(MODEL, json=body).json()
    times = [time for chunk in answer["chunks"] for time in chunk["timestamp"]]

    assert [chunk["text"].strip() for chunk in answer["chunks"]] == SENTENCE.split()
    assert times == sorted(times)


@pytest.mark.parametrize("timestamps", [False, None])
def test_without_timestamps_there_are_no_chunks(
    pipelines: httpx.Client, spoken: bytes, timestamps: bool | None
) -> None:
    body = _as_json(spoken, return_timestamps=timestamps)

    assert pipelines.post(MODEL, json=body).json() == {"text": SENTENCE}


def test_the_parameters_of_the_generation_are_taken(pipelines: httpx.Client, spoken: bytes) -> None:
    generation = {"num_beams": 2, "temperature": 0, "language": "en", "task": "transcribe"}
    body = _as_json(spoken, generation_parameters=generation)

    assert pipelines.post(MODEL, json=body).json() == {"text": SENTENCE}


def test_headers_tell_how_long_the_audio_is(pipelines: httpx.Client) -> None:
    answer = pipelines.post(MODEL, content=_silence(2))

    assert float(answer.headers["x-compute-audio-length"]) == pytest.approx(2, abs=0.05)
    assert answer.headers["x-compute-type"] == "cpu"
    assert float(answer.headers["x-compute-time"]) > 0


def test_silence_has_no_words(pipelines: httpx.Client) -> None:
    body = _as_json(_silence(2), return_timestamps=True)

    assert pipelines.post(MODEL, json=body).json() == {"text": "", "chunks": []}


@pytest.mark.parametrize(
    "audio",
    [b"", b"no audio", b"RIFF" + bytes(100), bytes(5000), _silence(0)],
    ids=["empty", "text", "cut short", "zeros", "no samples"],
)
def test_what_is_no_audio_is_a_400(pipelines: httpx.Client, audio: bytes) -> None:
    raw = pipelines.post(MODEL, content=audio)
    encoded = pipelines.post(MODEL, json=_as_json(audio))

    assert (raw.status_code, encoded.status_code) == (400, 400)
    assert "audio" in raw.json()["error"]


def test_a_playlist_is_not_followed(
    spoken: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FFmpeg would open a file of that name beside the process, and give its sound away."""
    (tmp_path / "secret.wav").write_bytes(spoken)
    monkeypatch.chdir(tmp_path)

    with pytest.raises(Malformed):
        decode(b"ffconcat version 1.0\nfile secret.wav\n", rate=16_000, most_seconds=60)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"inputs": "not base64!"}, "not valid base64"),
        ({"inputs": 3}, "audio in base64"),
        ({}, "with `inputs`"),
        (_as_json(b"x", return_timestamps="char"), "true, false or 'word'"),
        (_as_json(b"x", generation_parameters={"top_k": 3}), "`top_k` is not a parameter"),
        (_as_json(b"x", generation_parameters={"language": "fr"}), "`language` must be 'en'"),
        (_as_json(b"x", generation_parameters=[]), "must be an object"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_json_that_cannot_be_met_is_a_400(
    pipelines: httpx.Client, body: dict[str, Any], message: str
) -> None:
    answer = pipelines.post(MODEL, json=body)

    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_audio_that_is_too_long_or_too_large_is_refused(in_thread: Any) -> None:
    model = TranscriptionModel(TranscriptionSettings(max_audio_seconds=1))
    with in_thread(model) as client:
        long = client.post(MODEL, content=_silence(2), headers=WAITING)
        large = client.post(MODEL, content=bytes(26 << 20))

    assert (long.status_code, large.status_code) == (422, 413)
    assert "longer than 1 seconds" in long.json()["error"]


def test_sound_that_resampling_would_blow_up_is_refused_before() -> None:
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as sink:
        stream = sink.add_stream("pcm_u8", rate=1, layout="mono")
        frame = av.AudioFrame(format="u8", layout="mono", samples=600)
        frame.sample_rate = 1
        frame.planes[0].update(bytes(600))
        sink.mux(stream.encode(frame))

    with pytest.raises(Malformed, match="sampling rate"):
        decode(target.getvalue(), rate=16_000, most_seconds=900)
