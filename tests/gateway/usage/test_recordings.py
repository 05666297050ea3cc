"""An answer made of a recording is the answer that was recorded, byte for byte, and costs as much.

Recordings go through msgpack, as they do in the store.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.base import Json, Media, Task
from adapters.errors import Interrupted
from gateway.amounts import Usage
from gateway.audio import Pcm, encode
from gateway.config import Settings
from gateway.exchange import Exchange, Route, TaskAnswer
from gateway.image_files import ImageFiles
from gateway.tapes import Piece
from gateway.tasks.embedding import EmbeddingTask
from gateway.tasks.image import ImageTask
from gateway.tasks.speech import SpeechTask
from gateway.tasks.transcription import TranscriptionTask
from gateway.template_shelf import TemplateShelf
from gateway.tokenizer import Tokenizer
from gateway.upstreams.catalog import Catalog
from tests.gateway.image_route.painting import http, paint, painted
from tests.gateway.taped import answered, played, recorded
from tests.gateway.usage.gate import exchange, route
from tests.gateway.usage.text_upstream import as_json
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

SECOND = encode(Pcm(8000, 1, bytes(16_000)), "wav")
SENTENCES = [f"Sentence {at} {'word ' * 50}ends. " for at in range(3)]  # a piece each
BEYOND_MSGPACK = 10**30
CHUNKS = [{"text": f" Sentence {at}.", "timestamp": [at, at + 0.5]} for at in range(3)]
HEARD = {"text": "Sentence 0. Sentence 1. Sentence 2.", "chunks": CHUNKS}


@pytest.fixture
async def tokenizers(anyio_backend: str) -> AsyncIterator[TemplateShelf[Tokenizer]]:
    async with TemplateShelf([], load=Tokenizer.load) as shelf:
        yield shelf


async def replayed(
    task: TaskAnswer, path: Route, asked: Exchange, *others: Exchange
) -> list[tuple[bytes, Usage]]:
    """Return what the recording of `asked` gives to whoever asks the same, and to `others`."""
    again = replace(asked, usage=Usage())
    data, recordings = await recorded(await task.prepare(asked, path))
    assert asked.usage != Usage()
    answers = []
    for other in (again, *others):
        other.created = asked.created
        answers.append((await played(await task.prepare(other, path), recordings), other.usage))
    assert answers[0] == (data, asked.usage)
    return answers


def pictures(data: bytes) -> list[bytes]:
    """Return the pictures of a stream, or of a whole answer."""
    found = data.decode().split("\n\n")[:-1]
    events = [json.loads(frame.partition("data: ")[2]) for frame in found]
    items = events or json.loads(data)["data"]
    return [base64.b64decode(item["b64_json"]) for item in items]


@pytest.mark.parametrize("dialect", ["hf", "openai"])
@pytest.mark.parametrize("form", [{}, {"output_format": "webp", "output_compression": 30}])
async def test_pictures(upstream: Upstream, dialect: str, form: Json) -> None:
    upstream.play(paint_native if dialect == "hf" else paint_openai)
    path = route(upstream, Task.IMAGE, dialect=dialect)
    options: Json = {"prompt": "fox", "n": 3, "seed": 5, **form}
    asked, streamed = exchange(Task.IMAGE, **options), exchange(Task.IMAGE, **options, stream=True)
    (whole, used), (events, used_by_stream) = await replayed(ImageTask(None), path, asked, streamed)
    assert used == used_by_stream == Usage(images=3, pixels=3 * 32 * 24)
    assert sorted(pictures(events)) == sorted(pictures(whole))
    if not form:
        assert pictures(whole) == [painted(seed) for seed in (5, 6, 7)]


async def paint_native(visit: Visit) -> None:
    await paint(visit)


async def paint_openai(visit: Visit) -> None:
    data = [
        {"b64_json": base64.b64encode(painted(visit.body["seed"] + at)).decode(), "more": at}
        for at in range(visit.body["n"])
    ]
    usage = {"total_tokens": 9, "odd": BEYOND_MSGPACK}
    await visit.send(as_json({"created": 1, "data": data, "usage": usage, "quality": "low"}))


async def test_what_is_told_of_pictures(upstream: Upstream) -> None:
    image = {"b64_json": base64.b64encode(painted()).decode(), "odd": BEYOND_MSGPACK}
    usage = {"total_tokens": 9, "odd": BEYOND_MSGPACK}
    upstream.play(as_json({"created": 1, "data": [image], "usage": usage, "quality": "low"}))
    path = route(upstream, Task.IMAGE, dialect="openai")
    for stream in (False, True):
        asked = exchange(Task.IMAGE, prompt="fox", seed=1, stream=stream)
        [(data, _)] = await replayed(ImageTask(None), path, asked)
        assert data.count(str(BEYOND_MSGPACK).encode()) == 2
        assert b'"quality":"low"' in data


async def test_a_picture_by_address_is_of_the_same_recording(
    upstream: Upstream, tmp_path: Path
) -> None:
    upstream.play(paint)
    path, files = route(upstream, Task.IMAGE), ImageFiles(tmp_path / "images")
    asked = exchange(Task.IMAGE, prompt="fox", seed=5)
    by_address = exchange(Task.IMAGE, prompt="fox", seed=5, response_format="url")
    _, (data, _) = await replayed(ImageTask(files), path, asked, by_address)
    name = json.loads(data)["data"][0]["url"].rpartition("/")[2]
    assert files.read(name) == painted(5)


@pytest.mark.parametrize("form", ["mp3", "opus", "flac", "wav", "pcm"])
@pytest.mark.parametrize("text", ["Hello.", "".join(SENTENCES)])
@pytest.mark.parametrize("first", ["audio", "sse"])
async def test_speech(upstream: Upstream, form: str, text: str, first: str) -> None:
    upstream.play(http(SECOND, kind="audio/wav"))
    path = route(upstream, Task.SPEECH)
    options = {"input": text, "voice": "alloy", "response_format": form}
    asked, other = [
        exchange(Task.SPEECH, **options, stream_format=stream_format)
        for stream_format in (first, "audio" if first == "sse" else "sse")
    ]
    answers = await replayed(SpeechTask(), path, asked, other)
    assert answers[0][1] == answers[1][1]
    sound, events = [data for data, _ in (answers if first == "audio" else answers[::-1])]
    *deltas, done = [json.loads(frame[6:]) for frame in events.split(b"\n\n")[:-1]]
    assert b"".join(base64.b64decode(delta["audio"]) for delta in deltas) == sound
    assert done["usage"]["input_tokens"] == asked.usage.characters


@pytest.mark.parametrize("encoding_format", ["float", "base64"])
@pytest.mark.parametrize("told", [{}, {"x-prompt-tokens": "7"}])
async def test_embeddings(
    upstream: Upstream, tokenizers: TemplateShelf[Tokenizer], encoding_format: str, told: Json
) -> None:
    async def embed(visit: Visit) -> None:
        vectors = [[0.1, len(text) / 3] for text in visit.body["inputs"]]
        head = "".join(f"\r\n{name}: {value}" for name, value in told.items()).encode()
        await visit.send(as_json(vectors).replace(b"\r\n", head + b"\r\n", 1))

    upstream.play(embed)
    path = route(upstream, Task.EMBEDDING, embedding={"batch_size": 2})
    texts = ["one", "two words", "three"]
    asked = exchange(Task.EMBEDDING, input=texts, encoding_format=encoding_format)
    [(_, usage)] = await replayed(EmbeddingTask(tokenizers), path, asked)
    assert usage.estimated is not bool(told)
    assert usage.input_tokens == 14 or not told


@pytest.mark.parametrize("form", ["json", "text", "srt", "vtt", "verbose_json"])
async def test_transcriptions(form: str) -> None:
    path = listening(HEARD)
    await replayed(TranscriptionTask(), path, transcription(form), transcription(form))


async def test_a_transcription_is_rendered_for_each_who_asks() -> None:
    path = listening({"text": "Hello there.", "odd": BEYOND_MSGPACK}, dialect="openai")
    others = [transcription("text"), transcription("json", stream=True)]
    (as_object, _), *rest = await replayed(
        TranscriptionTask(), path, transcription("json"), transcription("json"), *others
    )
    (_, _), (plain, _), (events, used) = rest
    assert json.loads(as_object)["odd"] == BEYOND_MSGPACK
    assert plain == b"Hello there.\n"
    assert b'"transcript.text.done","text":"Hello there."' in events
    assert used == Usage(audio_ms=1000)


def listening(heard: Json, *, dialect: str = "hf") -> Route:
    """Return the route to an upstream that hears the same in every sound."""
    settings = Settings.model_validate(
        {
            "upstreams": [{"name": "up", "dialect": dialect, "base_url": "http://127.0.0.1:1"}],
            "models": [{"id": "m", "task": "transcription", "targets": [{"upstream": "up"}]}],
        }
    )
    transport = httpx.MockTransport(lambda _: httpx.Response(200, json=heard))
    [model] = Catalog(settings, transport).models
    return Route(model, model.targets[0])


def transcription(form: str, **options: Any) -> Exchange:
    body = {"task": "transcribe", "response_format": form, **options}
    return exchange(Task.TRANSCRIPTION, media=Media(SECOND), **body)


async def test_a_silence_is_kept() -> None:
    path = listening({"text": ""})
    [(data, _)] = await replayed(TranscriptionTask(), path, transcription("text"))
    assert data == b"\n"


@pytest.mark.parametrize(
    ("task", "wish", "empty"),
    [
        (ImageTask(None), exchange(Task.IMAGE, prompt="fox"), [Piece(0), Piece([[], b"{}"], True)]),
        (SpeechTask(), exchange(Task.SPEECH, input="a", voice="alloy"), [Piece([b"", 1, 0], True)]),
        (
            EmbeddingTask(TemplateShelf([], load=Tokenizer.load)),
            exchange(Task.EMBEDDING, input="a"),
            [Piece(1), Piece([], True)],
        ),
    ],
)
async def test_what_holds_nothing_is_not_kept(
    upstream: Upstream, task: TaskAnswer, wish: Exchange, empty: list[Piece]
) -> None:
    [part] = (await task.prepare(wish, route(upstream, wish.task))).parts
    assert not part.is_sound(empty)


async def test_what_was_answered_is_counted_though_it_is_of_no_use(
    upstream: Upstream, tokenizers: TemplateShelf[Tokenizer]
) -> None:
    upstream.play(as_json([[[0.1, 0.2], [0.3]]]))
    asked = exchange(Task.EMBEDDING, input="one")
    job = await EmbeddingTask(tokenizers).prepare(asked, route(upstream, Task.EMBEDDING))
    with pytest.raises(Interrupted, match="uneven"):
        await answered(job)
    assert asked.usage.input_tokens > 0


async def test_what_was_spoken_is_counted_though_it_is_no_sound(upstream: Upstream) -> None:
    upstream.play(http(b"an apology", kind="audio/wav"))
    asked = exchange(Task.SPEECH, input="Hello.", voice="alloy")
    job = await SpeechTask().prepare(asked, route(upstream, Task.SPEECH))
    with pytest.raises(Interrupted):
        await answered(job)
    assert asked.usage == Usage(characters=6)
