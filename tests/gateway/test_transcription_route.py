"""`POST /v1/audio/transcriptions` and `/translations` as the SDK asks them."""

from __future__ import annotations

import base64
import io
import json
import math
from array import array
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any

import av
import httpx
import openai
import pytest

from gateway.audio import Pcm, decode, encode, sniff
from gateway.config import Settings
from tests.gateway.running import Gateway, serving, unstarted_gateway

pytestmark = pytest.mark.anyio

SECONDS = 2.5
TEXT = "First, a sentence. Then <another> one!"
CHUNKS = [
    {"text": " First, a sentence.", "timestamp": [0.0, 1.25]},
    {"text": " Then <another> one!", "timestamp": [1.25, None]},
]
WORDS = [
    {"text": " First,", "timestamp": [0.0, 0.5]},
    {"text": " a", "timestamp": [0.5, 0.6]},
    {"text": " sentence.", "timestamp": [0.6, 1.0]},
    {"text": " Then", "timestamp": [1.0, 1.2]},
    {"text": " one!", "timestamp": [2.2, 2.4]},
]


@cache
def sound(form: str) -> bytes:
    """Return 2.5 seconds of a tone, in stereo."""
    rate = 24_000
    tone = (int(8000 * math.sin(0.1 * at)) for at in range(round(SECONDS * rate)))
    pcm = Pcm(rate, 2, array("h", (sample for sample in tone for _ in range(2))).tobytes())
    return encode(pcm, form)


@cache
def video(form: str) -> bytes:
    """Return the tone in a container that only FFmpeg reads."""
    codec = {"mp4": "aac", "webm": "libopus"}[form]
    sink = io.BytesIO()
    with (
        av.open(io.BytesIO(sound("wav"))) as source,
        av.open(sink, "w", format=form) as container,
    ):
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        resampler = av.AudioResampler(format=stream.format, layout="mono", rate=48_000)
        for frame in (*source.decode(audio=0), None):
            for piece in resampler.resample(frame):
                piece.pts = None
                container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return sink.getvalue()


def hear(request: httpx.Request) -> httpx.Response:
    if request.url.path.startswith("/v1/"):
        verbose = b'"response_format"\r\n\r\nverbose_json' in request.content
        segments = [{"id": 0, "start": 0.0, "end": 1.0, "text": TEXT, "avg_logprob": -0.5}]
        said: dict[str, Any] = {"text": TEXT, "x_groq": {"id": "r"}}
        if verbose:
            said |= {"language": "german", "duration": 2.5, "segments": segments}
        return httpx.Response(200, json=said)
    if request.headers["content-type"] != "application/json":
        return httpx.Response(200, json={"text": f" {TEXT}"})
    wanted = json.loads(request.content)["parameters"].get("return_timestamps")
    chunks = {True: CHUNKS, "word": WORDS, None: []}[wanted]
    return httpx.Response(200, json={"text": f" {TEXT}", "chunks": chunks})


def settings() -> Settings:
    upstreams = [
        {"name": "hf", "dialect": "hf", "base_url": "http://127.0.0.1:1"},
        {"name": "openai", "dialect": "openai", "base_url": "http://127.0.0.1:1/v1"},
    ]
    targets = {
        "native": {"upstream": "hf"},
        "english": {"upstream": "hf", "model": "openai/whisper-tiny.en"},
        "openai": {"upstream": "openai", "model": "whisper-1"},
    }
    rows = [
        {"id": name, "task": "transcription", "targets": [target]}
        for name, target in targets.items()
    ]
    chat = {"id": "chat", "targets": [{"upstream": "openai"}]}
    return Settings(server={"max_body_mb": 1}, upstreams=upstreams, models=[*rows, chat])


@pytest.fixture(scope="module")
async def served(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Gateway, str]]:
    folder = tmp_path_factory.mktemp("gateway")
    async with unstarted_gateway(folder, settings()) as made, serving(made.app) as port:
        yield made, f"http://127.0.0.1:{port}/v1"


@pytest.fixture
def gateway(served: tuple[Gateway, str]) -> Gateway:
    """The one gateway of all tests here, its upstream as new."""
    upstream = served[0].upstream
    upstream.requests.clear()
    upstream.answer = hear
    return served[0]


@pytest.fixture
def base_url(served: tuple[Gateway, str]) -> str:
    return served[1]


@pytest.fixture
async def sdk(gateway: Gateway, base_url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(api_key=gateway.key, base_url=base_url, max_retries=0) as client:
        yield client


@pytest.fixture
async def http(gateway: Gateway, base_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=base_url, headers=gateway.headers) as client:
        yield client


Post = Callable[..., Any]


@pytest.fixture
def post(http: httpx.AsyncClient) -> Post:
    async def post(
        file: bytes = sound("wav"), *, path: str = "transcriptions", **fields: Any
    ) -> Any:
        data = {"model": "native", **fields}
        return await http.post(f"/audio/{path}", data=data, files={"file": ("upload", file)})

    return post


async def test_json_has_the_text_and_the_time_used(
    gateway: Gateway, sdk: openai.AsyncOpenAI
) -> None:
    answer = await sdk.audio.transcriptions.create(model="native", file=sound("wav"))
    assert (answer.text, answer.usage.to_dict()) == (TEXT, {"type": "duration", "seconds": 3})
    [request] = gateway.upstream.requests
    assert request.url.path == "/models/native"
    assert request.headers["content-type"] == "audio/wav"
    assert request.content == sound("wav")


async def test_text_is_plain_text(sdk: openai.AsyncOpenAI, post: Post) -> None:
    answer = await sdk.audio.transcriptions.create(
        model="native", file=sound("flac"), response_format="text"
    )
    assert answer == f"{TEXT}\n"
    raw = await post(response_format="text")
    assert raw.headers["content-type"] == "text/plain; charset=utf-8"


async def test_srt(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.audio.transcriptions.create(
        model="native", file=sound("wav"), response_format="srt"
    )
    assert answer == (
        "1\n00:00:00,000 --> 00:00:01,250\nFirst, a sentence.\n\n"
        "2\n00:00:01,250 --> 00:00:02,500\nThen <another> one!\n\n"
    )


async def test_vtt(sdk: openai.AsyncOpenAI, post: Post) -> None:
    answer = await sdk.audio.transcriptions.create(
        model="native", file=sound("wav"), response_format="vtt"
    )
    assert answer == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nFirst, a sentence.\n\n"
        "00:00:01.250 --> 00:00:02.500\nThen &lt;another> one!\n\n"
    )
    assert (await post(response_format="vtt")).headers["content-type"].startswith("text/plain")


async def test_verbose_json_has_segments_by_default(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.audio.transcriptions.create(
        model="native", file=sound("wav"), response_format="verbose_json", language="de"
    )
    assert (answer.task, answer.language, answer.duration) == ("transcribe", "de", SECONDS)
    assert [(s.id, s.start, s.end, s.text) for s in answer.segments or ()] == [
        (0, 0.0, 1.25, "First, a sentence."),
        (1, 1.25, 2.5, "Then <another> one!"),
    ]
    assert answer.words is None
    assert answer.usage is not None
    assert answer.usage.seconds == 3


async def test_verbose_json_has_words_and_segments_made_of_them(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.audio.transcriptions.create(
        model="native",
        file=sound("wav"),
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert [(word.word, word.start) for word in answer.words or ()][:2] == [
        ("First,", 0.0),
        ("a", 0.5),
    ]
    # A sentence ends a segment, and so does a second of silence.
    assert [(s.start, s.end, s.text) for s in answer.segments or ()] == [
        (0.0, 1.0, "First, a sentence."),
        (1.0, 1.2, "Then"),
        (2.2, 2.4, "one!"),
    ]


async def test_words_alone_leave_the_segments_out(post: Post) -> None:
    answer = await post(
        response_format="verbose_json", **{"timestamp_granularities[]": "word", "stream": "false"}
    )
    assert "segments" not in answer.json()
    assert len(answer.json()["words"]) == 5


async def test_an_upstream_without_times_gives_one_segment(gateway: Gateway, post: Post) -> None:
    gateway.upstream.answer = lambda _: httpx.Response(200, json={"text": "All."})
    [segment] = (await post(response_format="verbose_json")).json()["segments"]
    assert (segment["start"], segment["end"], segment["text"]) == (0.0, SECONDS, "All.")


async def test_a_stream_sends_the_text_by_sentences_and_then_as_a_whole(
    sdk: openai.AsyncOpenAI,
) -> None:
    stream = await sdk.audio.transcriptions.create(model="native", file=sound("wav"), stream=True)
    *deltas, done = [event async for event in stream]
    assert len(deltas) == 2
    assert "".join(event.delta for event in deltas) == TEXT  # type: ignore[union-attr]
    assert {event.type for event in deltas} == {"transcript.text.delta"}
    assert (done.type, done.text) == ("transcript.text.done", TEXT)  # type: ignore[union-attr]


async def test_a_stream_is_of_events(post: Post) -> None:
    answer = await post(stream="true")
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert all(line.startswith("data: {") for line in answer.text.strip().split("\n\n"))


async def test_translations_are_asked_for_and_named_so(
    gateway: Gateway, sdk: openai.AsyncOpenAI
) -> None:
    with pytest.warns(DeprecationWarning):  # of the SDK's method
        answer = await sdk.audio.translations.create(
            model="native", file=sound("wav"), response_format="verbose_json"
        )
    assert (answer.text, answer.language) == (TEXT, "english")
    assert answer.to_dict()["task"] == "translate"
    sent = json.loads(gateway.upstream.requests[0].content)
    assert sent["parameters"]["generation_parameters"] == {"task": "translate"}


async def test_a_model_for_english_alone_says_so(gateway: Gateway, post: Post) -> None:
    answer = await post(model="english", path="translations", response_format="verbose_json")
    assert answer.json()["language"] == "english"
    assert (
        "generation_parameters"
        not in json.loads(gateway.upstream.requests[0].content)["parameters"]
    )


async def test_what_cannot_be_honoured_is_named(post: Post) -> None:
    answer = await post(**{"prompt": "Ada", "include[]": "logprobs", "language": ""})
    assert answer.headers["x-dragoman-ignored"] == "prompt, include"


async def test_an_openai_upstream_gets_the_form_and_its_details_come_through(
    gateway: Gateway, sdk: openai.AsyncOpenAI
) -> None:
    answer = await sdk.audio.transcriptions.create(
        model="openai", file=sound("wav"), response_format="verbose_json", prompt="Ada"
    )
    assert answer.language == "german"
    assert answer.segments is not None
    assert answer.segments[0].avg_logprob == -0.5
    [request] = gateway.upstream.requests
    assert request.url.path == "/v1/audio/transcriptions"
    assert b'name="prompt"\r\n\r\nAda\r\n' in request.content
    assert b'name="model"\r\n\r\nwhisper-1\r\n' in request.content
    assert sound("wav") in request.content


async def test_unknown_fields_of_an_openai_answer_survive(post: Post) -> None:
    answer = (await post(model="openai")).json()
    assert (answer["text"], answer["x_groq"]) == (TEXT, {"id": "r"})


@pytest.mark.parametrize("form", ["wav", "flac", "mp3"])
async def test_what_every_server_reads_goes_as_it_is(
    gateway: Gateway, post: Post, form: str
) -> None:
    assert (await post(sound(form))).status_code == 200
    assert gateway.upstream.requests[0].content == sound(form)


@pytest.mark.parametrize("form", ["opus", "aac", "mp4", "webm"])
async def test_other_containers_become_flac_at_16_khz(
    gateway: Gateway, post: Post, form: str
) -> None:
    file = sound(form) if form in ("opus", "aac") else video(form)
    answer = await post(file, response_format="verbose_json")
    assert answer.json()["duration"] == pytest.approx(SECONDS, abs=0.1)
    body = json.loads(gateway.upstream.requests[0].content)
    data = base64.b64decode(body["inputs"])
    assert sniff(data) == "flac"
    heard = decode(data, limit_seconds=10)
    assert (heard.rate, heard.channels) == (16_000, 1)
    assert heard.duration_seconds == pytest.approx(SECONDS, abs=0.1)


@pytest.mark.parametrize(
    "file",
    [
        b"",
        b"not audio at all",
        b'{"audio": [[0.1, 0.2]], "sampling_rate": 16000}',
        b"fLaC" + b"\x00" * 100,
        b"RIFF\x00\x00\x00\x00WAVE",
        b"OggS" + b"\xff" * 100,
        b"ID3" + b"\x00" * 100,
        sound("wav")[:44],
        b"#EXTM3U\nhttp://127.0.0.1/secret\n",
    ],
    ids=lambda data: repr(data[:12]),
)
async def test_a_file_that_is_no_sound_is_refused(
    gateway: Gateway, post: Post, file: bytes
) -> None:
    answer = await post(file)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")
    assert gateway.upstream.requests == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": "diarized_json"}, "response_format"),
        ({"response_format": "mp3"}, "response_format"),
        ({"temperature": "2"}, "temperature"),
        ({"temperature": "nan"}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"stream": "perhaps"}, "stream"),
        ({"stream": "true", "response_format": "srt"}, "response_format"),
        ({"timestamp_granularities[]": "syllable"}, "timestamp_granularities[0]"),
        ({"language": "x" * 41}, "language"),
        ({"model": ""}, "model"),
    ],
    ids=str,
)
async def test_bad_fields_are_refused_by_name(
    gateway: Gateway, post: Post, fields: dict[str, str], param: str
) -> None:
    answer = await post(**fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert gateway.upstream.requests == []


async def test_a_form_without_a_file_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/audio/transcriptions", files={"model": (None, "native")})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "file")


async def test_a_body_that_is_no_form_is_refused(http: httpx.AsyncClient) -> None:
    answer = await http.post("/audio/transcriptions", json={"model": "native"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_content_type")


async def test_a_file_over_the_limit_is_refused(gateway: Gateway, post: Post) -> None:
    answer = await post(sound("wav") + bytes(2**20))
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
    assert gateway.upstream.requests == []


@pytest.mark.parametrize("path", ["transcriptions", "translations"])
async def test_only_post_is_allowed(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.get(f"/audio/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize("model", ["chat", "unknown"])
async def test_a_model_of_another_task_is_not_found(post: Post, model: str) -> None:
    answer = await post(model=model)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_an_upstream_that_refuses_the_sound_names_the_file(
    gateway: Gateway, post: Post
) -> None:
    gateway.upstream.answer = lambda _: httpx.Response(400, json={"error": "Malformed soundfile"})
    error = (await post()).json()["error"]
    assert (error["message"], error["param"]) == ("Malformed soundfile", "file")


async def test_the_routes_are_described(http: httpx.AsyncClient) -> None:
    url = http.base_url.copy_with(path="/openapi.json")
    document = (await http.get(url)).json()
    paths, schemas = document["paths"], document["components"]["schemas"]
    for name in ("transcriptions", "translations"):
        body = paths[f"/v1/audio/{name}"]["post"]["requestBody"]
        assert list(body["content"]) == ["multipart/form-data"]
        [reference] = body["content"]["multipart/form-data"]["schema"].values()
        schema = schemas[reference.rpartition("/")[2]]
        assert schema["properties"]["file"] == {"type": "string", "format": "binary"}
        assert set(schema["required"]) == {"model", "file"}
