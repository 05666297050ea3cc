"""`POST /v1/audio/speech`: any sound from upstream, the format that was asked for to the client.

Through a gateway on real sockets, asked by OpenAI's SDK; the upstream plays what a test tells it.
"""

from __future__ import annotations

import asyncio
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

from gateway.audio import Pcm, encode
from gateway.config import Settings
from tests.gateway_fixture import Gateway, running_gateway
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

SECONDS = 1.3
RATE = 24_000
SENTENCE = "The gateway speaks."
FORMATS = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
CONTAINERS = ("mp3", "opus", "aac", "flac", "wav", "m4a", "webm", "json")
VOICES = {"alloy": "heart", "onyx": "bear"}


def tone(seconds: float) -> Pcm:
    """A sine of 440 Hz."""
    frames = range(int(seconds * RATE))
    wave = (int(9000 * math.sin(at * 2 * math.pi * 440 / RATE)) for at in frames)
    return Pcm(RATE, 1, array("h", wave).tobytes())


@cache
def sound(container: str, seconds: float = SECONDS) -> bytes:
    """A tone in any container, JSON's floats included."""
    pcm = tone(seconds)
    if container == "json":
        floats = [sample / 32768 for sample in array("h", pcm.samples)]
        return json.dumps({"audio": [floats], "sampling_rate": RATE}).encode()
    if container in FORMATS:
        return encode(pcm, container)
    muxer, codec = {"m4a": ("ipod", "aac"), "webm": ("webm", "libopus")}[container]
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as output:
        stream = output.add_stream(codec, rate=48_000, layout="mono")
        frame = av.AudioFrame(format="s16", layout="mono", samples=pcm.frames)
        frame.sample_rate = RATE
        frame.planes[0].update(pcm.samples)
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


def seconds_of(data: bytes, form: str) -> float:
    """How long `data` lasts, by FFmpeg's own guess at what it is; raw samples by their number."""
    if form == "pcm":
        return len(data) / 2 / RATE
    if form == "json":
        return len(json.loads(data)["audio"][0]) / RATE
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(audio=0))
    return sum(frame.samples for frame in frames) / frames[0].sample_rate


def reply(body: bytes, kind: str = "audio/flac", status: int = 200) -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def refusal(status: int, text: str) -> bytes:
    return reply(json.dumps({"error": text}).encode(), "application/json", status)


def text_of(sentences: int) -> str:
    """So long sentences that each is a piece of its own."""
    filler = "word " * 50
    return " ".join(f"Sentence {at} {filler}ends." for at in range(sentences))


async def unwanted(visit: Visit) -> None:
    raise AssertionError(f"nothing may reach the upstream, but {visit.raw!r} did")


@pytest.fixture(scope="module")
async def shared_upstream(anyio_backend: str) -> AsyncIterator[Upstream]:
    async with Upstream(unwanted) as upstream:
        yield upstream


@pytest.fixture
async def upstream(shared_upstream: Upstream) -> AsyncIterator[Upstream]:
    shared_upstream.rest()
    yield shared_upstream
    shared_upstream.rest()


def settings(url: str) -> Settings:
    def model(name: str, by: str, **options: Any) -> dict[str, Any]:
        return {"id": name, "task": "speech", "targets": [{"upstream": by}], **options}

    return Settings(
        upstreams=[
            {"name": name, "dialect": name, "base_url": url}
            for name in ("hf", "openai", "together")
        ],
        models=[
            model("org/plain", "hf"),
            model(
                "org/voices",
                "hf",
                voices=VOICES,
                voice_parameter="voice_preset",
                speed_parameter="speaking_rate",
            ),
            model("org/default", "hf", default_voice="heart", voice_parameter="voice"),
            model("tts", "openai"),
            model("mapped", "openai", voices=VOICES),
            model("cartesia/sonic", "together"),
        ],
    )


@pytest.fixture(scope="module")
async def gateway(
    shared_upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    async with running_gateway(settings(shared_upstream.url), folder) as running:
        yield running


@pytest.fixture
async def sdk(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=gateway.base_url, api_key=gateway.key, max_retries=0, timeout=PATIENCE_SECONDS
    ) as client:
        yield client


@pytest.fixture
async def http(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=gateway.base_url, headers=gateway.headers, timeout=PATIENCE_SECONDS
    ) as client:
        yield client


Ask = Callable[..., Any]


@pytest.fixture
def ask(http: httpx.AsyncClient) -> Ask:
    """Ask for speech; every field can be replaced."""

    async def post(**fields: Any) -> httpx.Response:
        body = {"model": "org/plain", "input": SENTENCE, "voice": "alloy", **fields}
        given = {name: value for name, value in body.items() if value is not ...}
        return await http.post("/audio/speech", json=given)

    return post


def error_of(response: httpx.Response) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("form", FORMATS)
async def test_any_upstream_container_becomes_the_format_that_was_asked_for(
    sdk: openai.AsyncOpenAI, upstream: Upstream, form: Any, container: str
) -> None:
    sent = sound(container)
    upstream.play(reply(sent, "application/octet-stream"))
    answer = await sdk.audio.speech.create(
        model="org/plain", input=SENTENCE, voice="alloy", response_format=form
    )
    assert answer.response.headers["content-type"] == FORMATS[form]
    assert int(answer.response.headers["content-length"]) == len(answer.content)
    assert seconds_of(answer.content, form) == pytest.approx(seconds_of(sent, container), abs=0.05)


@pytest.mark.parametrize("form", ["mp3", "opus", "aac", "flac", "wav"])
async def test_sound_in_the_wanted_format_passes_unchanged(
    ask: Ask, upstream: Upstream, form: str
) -> None:
    upstream.play(reply(sound(form), "audio/flac"))
    answer = await ask(response_format=form)
    assert (answer.content, answer.headers["content-type"]) == (sound(form), FORMATS[form])


async def test_raw_samples_of_an_openai_server_pass_unchanged(ask: Ask, upstream: Upstream) -> None:
    samples = b"\xff\xff" + tone(0.5).samples
    upstream.play(reply(samples, "audio/pcm; rate=24000"))
    answer = await ask(model="tts", response_format="pcm")
    assert answer.content == samples


async def test_mp3_is_the_default(ask: Ask, upstream: Upstream) -> None:
    upstream.play(reply(sound("flac")))
    answer = await ask()
    assert answer.headers["content-type"] == "audio/mpeg"
    assert answer.content[:2] == b"\xff\xfb"


async def test_native_call_holds_inputs_and_what_the_model_has_parameters_for(
    ask: Ask, upstream: Upstream
) -> None:
    upstream.play(reply(sound("flac")))
    answer = await ask(model="org/voices", voice="onyx", speed=1.5, user="me")
    [visit] = upstream.visits
    assert (visit.method, visit.path) == ("POST", "/models/org/voices")
    assert visit.body == {
        "inputs": SENTENCE,
        "parameters": {"voice_preset": "bear", "speaking_rate": 1.5},
    }
    assert visit.headers["accept"] == "*/*"
    assert "x-dragoman-ignored" not in answer.headers


async def test_native_call_without_parameters_holds_inputs_alone(
    ask: Ask, upstream: Upstream
) -> None:
    upstream.play(reply(sound("flac")))
    await ask(voice="shimmer")
    assert upstream.visits[0].body == {"inputs": SENTENCE}


async def test_what_the_model_cannot_honour_is_named(ask: Ask, upstream: Upstream) -> None:
    upstream.play(reply(sound("flac")))
    answer = await ask(speed=2, instructions="Whisper.", emotion="calm")
    assert answer.headers["x-dragoman-ignored"] == "speed, instructions, emotion"


async def test_what_asks_for_nothing_special_is_not_named(ask: Ask, upstream: Upstream) -> None:
    upstream.play(reply(sound("flac")))
    answer = await ask(speed=1.0, instructions="")
    assert "x-dragoman-ignored" not in answer.headers


async def test_openai_server_gets_the_clients_own_fields_and_the_text_at_once(
    ask: Ask, upstream: Upstream
) -> None:
    upstream.play(reply(sound("mp3"), "audio/mpeg"))
    text = text_of(3)
    fields = {"speed": 2, "instructions": "Whisper.", "voice": {"id": "voice_1"}, "lang": "en"}
    answer = await ask(model="tts", input=text, **fields)
    [visit] = upstream.visits
    assert visit.path == "/v1/audio/speech"
    assert visit.body == {"model": "tts", "input": text, "response_format": "mp3", **fields}
    assert (answer.content, "x-dragoman-ignored" in answer.headers) == (sound("mp3"), False)


async def test_openai_server_behind_configured_voices_gets_its_own_name(
    ask: Ask, upstream: Upstream
) -> None:
    upstream.play(reply(sound("mp3"), "audio/mpeg"))
    await ask(model="mapped", voice={"id": "alloy"})
    assert upstream.visits[0].body["voice"] == "heart"


async def test_together_is_asked_for_what_it_makes(ask: Ask, upstream: Upstream) -> None:
    upstream.play(reply(sound("wav"), "audio/wav"))
    answer = await ask(
        model="cartesia/sonic",
        voice="polite man",
        response_format="opus",
        speed=2,
        stream_format="audio",
    )
    assert upstream.visits[0].body == {
        "model": "cartesia/sonic",
        "input": SENTENCE,
        "voice": "polite man",
        "response_format": "wav",
    }
    assert answer.headers["content-type"] == "audio/ogg"
    assert answer.headers["x-dragoman-ignored"] == "speed"


@pytest.mark.parametrize("voice", ["alloy", "cedar", "heart", {"id": "heart"}])
async def test_openais_voices_stand_for_the_models_default(
    ask: Ask, upstream: Upstream, voice: Any
) -> None:
    upstream.play(reply(sound("flac")))
    await ask(model="org/default", voice=voice)
    assert upstream.visits[0].body["parameters"] == {"voice": "heart"}


@pytest.mark.parametrize(
    ("model", "listed"),
    [("org/voices", "'alloy', 'onyx'"), ("org/plain", "'alloy', 'ash'"), ("mapped", "'onyx'")],
)
@pytest.mark.parametrize("voice", ["nobody", {"id": "nobody"}])
async def test_unknown_voice_is_refused_with_the_names_of_the_known(
    ask: Ask, upstream: Upstream, model: str, listed: str, voice: Any
) -> None:
    answer = await ask(model=model, voice=voice)
    error = error_of(answer)
    assert (answer.status_code, error["param"], error["code"]) == (400, "voice", "invalid_value")
    assert listed in error["message"]
    assert upstream.visits == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": " \n"}, "input"),
        ({"input": "x" * 4097}, "input"),
        ({"input": 5}, "input"),
        ({"input": ...}, "input"),
        ({"input": ["a"]}, "input"),
        ({"model": ...}, "model"),
        ({"model": "nothing"}, "model"),
        ({"voice": ...}, "voice"),
        ({"voice": ""}, "voice"),
        ({"voice": 7}, "voice"),
        ({"voice": {}}, "voice.id"),
        ({"response_format": "ogg"}, "response_format"),
        ({"speed": 0.2}, "speed"),
        ({"speed": 4.1}, "speed"),
        ({"speed": "fast"}, "speed"),
        ({"instructions": "x" * 4097}, "instructions"),
        ({"stream_format": "json"}, "stream_format"),
    ],
)
async def test_wrong_field_is_named_and_nothing_reaches_the_upstream(
    ask: Ask, upstream: Upstream, fields: dict[str, Any], param: str
) -> None:
    answer = await ask(**fields)
    assert answer.status_code in (400, 404)
    assert error_of(answer)["type"] == "invalid_request_error"
    assert error_of(answer)["param"] == param
    assert upstream.visits == []


async def test_body_over_the_limit_is_refused(ask: Ask, upstream: Upstream) -> None:
    answer = await ask(padding="x" * 30_000_000)
    assert (answer.status_code, error_of(answer)["code"]) == (413, "request_too_large")
    assert upstream.visits == []


async def test_text_of_the_greatest_length_is_spoken(ask: Ask, upstream: Upstream) -> None:
    upstream.play(reply(sound("wav", 0.2)))
    text = (text_of(20))[:4096]
    answer = await ask(input=text, response_format="wav")
    said = "".join(visit.body["inputs"] for visit in upstream.visits)
    assert sorted(said) == sorted(text)
    pieces = len(upstream.visits)
    assert seconds_of(answer.content, "wav") == pytest.approx(pieces * 0.2, abs=0.05)


@pytest.mark.parametrize("form", FORMATS)
async def test_first_sound_leaves_before_the_last_sentence_is_made(
    sdk: openai.AsyncOpenAI, upstream: Upstream, form: Any
) -> None:
    heard = asyncio.Event()

    async def after_hearing(visit: Visit) -> None:
        await heard.wait()
        await visit.send(reply(sound("flac")))

    upstream.play(reply(sound("flac")), after_hearing)
    data = b""
    async with sdk.audio.speech.with_streaming_response.create(
        model="org/plain", input=f"{SENTENCE} And on it goes.", voice="alloy", response_format=form
    ) as answer:
        assert answer.headers["content-type"] == FORMATS[form]
        assert "content-length" not in answer.headers
        async for part in answer.iter_bytes():
            heard.set()
            data += part
    assert [visit.body["inputs"].strip() for visit in upstream.visits] == [
        SENTENCE,
        "And on it goes.",
    ]
    assert seconds_of(data, form) == pytest.approx(2 * SECONDS, abs=0.05)


async def test_pieces_of_unlike_sampling_rates_make_one_file(ask: Ask, upstream: Upstream) -> None:
    other = Pcm(16_000, 1, bytes(2 * 16_000))
    upstream.play(reply(sound("wav")), reply(encode(other, "wav")))
    answer = await ask(input=text_of(2), response_format="wav")
    assert seconds_of(answer.content, "wav") == pytest.approx(SECONDS + 1, abs=0.05)


async def test_at_most_two_calls_are_under_way(ask: Ask, upstream: Upstream) -> None:
    pair = asyncio.Barrier(2)

    async def in_pairs(visit: Visit) -> None:
        await pair.wait()
        await visit.send(reply(sound("flac", 0.2)))

    upstream.play(in_pairs)
    answer = await ask(input=text_of(6), response_format="wav")
    assert answer.status_code == 200
    assert (len(upstream.visits), upstream.most_at_once) == (6, 2)


async def test_look_ahead_waits_for_a_client_that_does_not_read(
    http: httpx.AsyncClient, upstream: Upstream
) -> None:
    upstream.play(reply(sound("flac", 60.0)))
    fields = {"model": "org/plain", "input": text_of(12), "voice": "alloy"}
    async with http.stream("POST", "/audio/speech", json=fields | {"response_format": "wav"}):
        for _ in range(3):
            await upstream.arrival()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                while len(upstream.visits) < 12:
                    await upstream.arrival()


async def test_silent_pieces_are_not_sent(ask: Ask, upstream: Upstream) -> None:
    upstream.play(reply(sound("flac")))
    await ask(input="* " * 200 + SENTENCE)
    assert [visit.body["inputs"][-len(SENTENCE) :] for visit in upstream.visits] == [SENTENCE]


@pytest.mark.parametrize("form", FORMATS)
async def test_failure_in_the_middle_cuts_the_connection(
    http: httpx.AsyncClient, upstream: Upstream, form: str
) -> None:
    upstream.play(reply(sound("flac")), refusal(500, "CUDA error"))
    fields = {"model": "org/plain", "input": text_of(3), "voice": "alloy", "response_format": form}
    async with http.stream("POST", "/audio/speech", json=fields) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            async for _ in answer.aiter_raw():
                pass


async def test_broken_sound_in_the_middle_cuts_the_connection(ask: Ask, upstream: Upstream) -> None:
    upstream.play(reply(sound("flac")), reply(b"no sound"))
    with pytest.raises(httpx.RemoteProtocolError):
        await ask(input=text_of(3))


@pytest.mark.parametrize("text", [SENTENCE, text_of(3)], ids=["short", "long"])
@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (refusal(400, "too long"), 400, "invalid_value"),
        (refusal(500, "broken"), 502, "upstream_error"),
        (refusal(429, "slow down"), 429, "rate_limit_exceeded"),
        (refusal(200, "failed all the same"), 502, "upstream_error"),
        (reply(b""), 502, "upstream_error"),
        (reply(b"no sound at all"), 502, "upstream_error"),
        (reply(b"fLaC" + b"\0" * 500), 502, "upstream_error"),
        (reply(b'{"audio": [[]], "sampling_rate": 24000}'), 502, "upstream_error"),
        (reply(b'{"audio": [["a"]], "sampling_rate": 24000}'), 502, "upstream_error"),
    ],
)
async def test_failure_before_the_first_sound_is_a_status(
    ask: Ask, upstream: Upstream, text: str, sent: bytes, status: int, code: str
) -> None:
    upstream.play(sent)
    for fields in ({}, {"stream_format": "sse"}):
        answer = await ask(input=text, **fields)
        assert (answer.status_code, error_of(answer)["code"]) == (status, code)


async def test_error_under_status_200_is_told_in_the_upstreams_words(
    ask: Ask, upstream: Upstream
) -> None:
    upstream.play(refusal(200, "the voice is hoarse"))
    assert error_of(await ask())["message"] == "the voice is hoarse"


async def test_client_that_leaves_ends_the_calls_under_way(
    http: httpx.AsyncClient, upstream: Upstream
) -> None:
    silent: asyncio.Queue[Visit] = asyncio.Queue()
    left = asyncio.Event()

    async def hold(visit: Visit) -> None:
        silent.put_nowait(visit)
        await left.wait()

    upstream.play(reply(sound("flac")), hold)
    fields = {"model": "org/plain", "input": text_of(4), "voice": "alloy", "response_format": "wav"}
    async with http.stream("POST", "/audio/speech", json=fields) as answer:
        await anext(answer.aiter_raw())
        held = [await silent.get(), await silent.get()]
    for visit in held:
        await visit.gone()
    left.set()
    assert len(upstream.visits) == 3


async def test_client_that_leaves_before_the_first_sound_ends_the_calls(
    http: httpx.AsyncClient, upstream: Upstream
) -> None:
    left = asyncio.Event()

    async def hold(visit: Visit) -> None:
        await left.wait()

    upstream.play(hold)
    asking = asyncio.create_task(
        http.post(
            "/audio/speech",
            json={"model": "org/plain", "input": text_of(4), "voice": "alloy"},
        )
    )
    visits = [await upstream.arrival(), await upstream.arrival()]
    asking.cancel()
    for visit in visits:
        await visit.gone()
    left.set()


@pytest.mark.parametrize("sentences", [1, 3])
@pytest.mark.parametrize("form", FORMATS)
async def test_events_hold_the_file_and_its_usage(
    sdk: openai.AsyncOpenAI, upstream: Upstream, form: Any, sentences: int
) -> None:
    upstream.play(reply(sound("flac")))
    text = text_of(sentences)
    async with sdk.audio.speech.with_streaming_response.create(
        model="org/plain", input=text, voice="alloy", response_format=form, stream_format="sse"
    ) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        frames = (await answer.read()).split(b"\n\n")
    assert frames.pop() == b""
    *deltas, done = (json.loads(frame.removeprefix(b"data: ")) for frame in frames)
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    data = b"".join(base64.b64decode(event["audio"]) for event in deltas)
    assert seconds_of(data, form) == pytest.approx(sentences * SECONDS, abs=0.05)
    made = math.ceil(sentences * SECONDS * 20)
    usage = {"input_tokens": len(text), "output_tokens": made, "total_tokens": len(text) + made}
    assert done == {"type": "speech.audio.done", "usage": usage}


async def test_failure_among_events_is_an_event(ask: Ask, upstream: Upstream) -> None:
    upstream.play(reply(sound("flac")), refusal(500, "CUDA error"))
    answer = await ask(input=text_of(3), stream_format="sse")
    *deltas, last = answer.text.removesuffix("\n\n").split("\n\n")
    assert deltas
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_error"
    assert "speech.audio.done" not in answer.text
