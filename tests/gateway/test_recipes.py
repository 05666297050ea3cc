"""What the parts of images, speech, embeddings and transcriptions depend on, and what they do not.

Each field of each request either changes the key, or is named here with the reason why not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.base import Json, Media, Task
from gateway.audio import Pcm, encode
from gateway.cache.keys import digest
from gateway.config import Settings
from gateway.exchange import Exchange, Job, Route, TaskAnswer
from gateway.image_files import ImageFiles
from gateway.keys import Caller
from gateway.tasks.embedding import EmbeddingTask
from gateway.tasks.fields_without_effect import WITHOUT_EFFECT
from gateway.tasks.image import ImageTask
from gateway.tasks.speech import SpeechTask
from gateway.tasks.transcription import TranscriptionTask
from gateway.template_shelf import TemplateShelf
from gateway.tokenizer import Tokenizer
from gateway.upstreams.catalog import Catalog
from tests.gateway.request_fields import WALKS, Walk

pytestmark = pytest.mark.anyio

SECOND = encode(Pcm(8000, 1, bytes(16_000)), "wav")
TWO_SECONDS = encode(Pcm(8000, 1, bytes(32_000)), "wav")
MATRYOSHKA = {"embedding": {"matryoshka": True}}
CHANGING = [(walk.task, name) for walk in WALKS.values() for name in walk.changing]
NOT_CHANGING = [(walk.task, name) for walk in WALKS.values() for name in walk.not_changing]


def answerer(task: Task) -> TaskAnswer:
    match task:
        case Task.IMAGE:
            return ImageTask(ImageFiles(Path("unused")))  # as nothing is made
        case Task.SPEECH:
            return SpeechTask()
        case Task.EMBEDDING:
            return EmbeddingTask(TemplateShelf([], load=Tokenizer.load))
        case _:
            return TranscriptionTask()


def route(task: Task, dialect: str, options: Json) -> Route:
    settings = Settings.model_validate(
        {
            "upstreams": [{"name": "up", "dialect": dialect, "base_url": "http://127.0.0.1:1"}],
            "models": [{"id": "m", "task": task, "targets": [{"upstream": "up"}], **options}],
        }
    )
    [model] = Catalog(settings, httpx.MockTransport(lambda _: httpx.Response(500))).models
    return Route(model, model.targets[0])


async def job(
    task: Task,
    body: Json,
    /,
    *,
    dialect: str = "openai",
    media: bytes = SECOND,
    options: Json | None = None,
) -> Job:
    exchange = Exchange(
        id="0",
        task=task,
        caller=Caller(id="id", name="test"),
        body={"model": "m", **body},
        media=Media(media) if task is Task.TRANSCRIPTION else None,
    )
    return await answerer(task).prepare(exchange, route(task, dialect, options or {}))


async def keys(task: Task, body: Json, /, **options: Any) -> list[str]:
    parts = (await job(task, body, **options)).parts
    return [
        digest(part.recipe(), scope="global", task=task, model="m", target="m") for part in parts
    ]


@pytest.mark.parametrize("walk", WALKS.values(), ids=WALKS)
def test_each_field_is_said_to_change_the_key_or_not_to(walk: Walk) -> None:
    fields = set(walk.schema.__annotations__)
    assert walk.changing.keys() | walk.not_changing.keys() == fields
    assert not walk.changing.keys() & walk.not_changing.keys()


@pytest.mark.parametrize(("task", "name"), CHANGING)
async def test_a_field_that_can_change_the_answer_changes_the_key(task: Task, name: str) -> None:
    walk = WALKS[task]
    changed = walk.body | {name: walk.changing[name]}
    assert await keys(task, changed) != await keys(task, walk.body)


@pytest.mark.parametrize(("task", "name"), NOT_CHANGING)
async def test_a_field_that_cannot_change_the_answer_leaves_the_key_alone(
    task: Task, name: str
) -> None:
    walk = WALKS[task]
    body = walk.body | walk.besides.get(name, {})
    value, _ = walk.not_changing[name]
    assert await keys(task, body | {name: value}) == await keys(task, body)


@pytest.mark.parametrize("task", WALKS)
async def test_what_has_no_effect_leaves_the_key_alone_and_unknown_fields_change_it(
    task: Task,
) -> None:
    body = WALKS[task].body
    plain = await keys(task, body)
    for name in WITHOUT_EFFECT:
        assert await keys(task, body | {name: "x"}) == plain
    assert await keys(task, body | {"new": "x"}) != plain


async def test_an_image_has_the_key_of_its_seed_however_many_are_asked_for() -> None:
    two, four, later = [
        await keys(Task.IMAGE, {"prompt": "fox", "seed": seed, "n": n}, dialect="hf")
        for seed, n in ((7, 2), (7, 4), (10, 1))
    ]
    assert two == four[:2]
    assert later == four[3:]
    assert len(set(four)) == 4


async def test_a_single_image_is_asked_for_with_or_without_saying_so() -> None:
    body = {"prompt": "fox", "seed": 7}
    assert await keys(Task.IMAGE, body | {"n": 1}) == await keys(Task.IMAGE, body)


@pytest.mark.parametrize("dialect", ["hf", "openai", "together", "nscale", "fal"])
async def test_images_without_a_seed_have_keys_by_their_place_and_none_of_a_seed(
    dialect: str,
) -> None:
    body = {"prompt": "fox", "n": 4}
    drawn = await keys(Task.IMAGE, body, dialect=dialect)
    assert await keys(Task.IMAGE, body, dialect=dialect) == drawn
    assert len(set(drawn)) == len(drawn)
    seeded = await keys(Task.IMAGE, body | {"seed": 0}, dialect=dialect)
    assert not set(drawn) & set(seeded)


async def test_what_is_left_out_for_an_upstream_leaves_the_key_alone() -> None:
    body = {"prompt": "fox", "seed": 1}
    plain = await keys(Task.IMAGE, body, dialect="hf")
    assert await keys(Task.IMAGE, body | {"quality": "high"}, dialect="hf") == plain
    assert await keys(Task.IMAGE, body | {"output_format": "webp"}, dialect="hf") != plain


async def test_a_sound_has_a_key_for_each_format_that_is_made_here() -> None:
    body = {"input": "Hello.", "voice": "alloy"}
    plain = await keys(Task.SPEECH, body, dialect="hf")
    assert await keys(Task.SPEECH, body | {"response_format": "mp3"}, dialect="hf") == plain
    assert await keys(Task.SPEECH, body | {"response_format": "wav"}, dialect="hf") != plain


async def test_embeddings_have_a_key_for_each_batch() -> None:
    options: Json = {"embedding": {"batch_size": 2}}
    all_of_them = await keys(Task.EMBEDDING, {"input": ["a", "b", "c", "d"]}, options=options)
    last = await keys(Task.EMBEDDING, {"input": ["c", "d"]}, options=options)
    assert all_of_them[1:] == last
    assert len(set(all_of_them)) == 2


async def test_what_is_done_to_vectors_here_changes_the_key() -> None:
    found = [
        await keys(Task.EMBEDDING, {"input": "one", **body}, dialect="hf", options=configured)
        for configured in ({"embedding": {"matryoshka": True, "pooling": "cls"}}, MATRYOSHKA)
        for body in ({}, {"dimensions": 2}, {"dimensions": 3}, {"encoding_format": "base64"})
    ]
    assert len({key for [key] in found}) == len(found)


async def test_dimensions_made_here_have_another_key_than_those_of_the_upstream() -> None:
    body = {"input": "one", "dimensions": 2}
    assert await keys(Task.EMBEDDING, body, options=MATRYOSHKA) != await keys(Task.EMBEDDING, body)


@pytest.mark.parametrize("dialect", ["hf", "openai"])
async def test_transcriptions_share_what_is_asked_of_the_upstream_alike(dialect: str) -> None:
    async def of(form: str, **body: Any) -> list[str]:
        asked = {"task": "transcribe", "response_format": form, **body}
        return await keys(Task.TRANSCRIPTION, asked, dialect=dialect)

    plain, timed = await of("json"), await of("srt")
    assert await of("json") == await of("text") == await of("text", stream=True) == plain
    assert await of("vtt") == await of("verbose_json") == timed
    assert timed != plain


@pytest.mark.parametrize("dialect", ["hf", "openai"])
async def test_what_was_said_and_what_is_wanted_of_it_change_the_key(dialect: str) -> None:
    body = {"task": "transcribe"}
    plain = await keys(Task.TRANSCRIPTION, body, dialect=dialect)
    another = await keys(Task.TRANSCRIPTION, body, dialect=dialect, media=TWO_SECONDS)
    translated = await keys(Task.TRANSCRIPTION, {"task": "translate"}, dialect=dialect)
    assert len({*plain, *another, *translated}) == 3


async def test_no_text_passes_for_another_field_of_a_form() -> None:
    body = {"task": "transcribe", "prompt": "a", "language": "en"}
    inner = 'a\r\n\r\nContent-Disposition: form-data; name="language"\r\n\r\nen'
    forged = {"task": "transcribe", "prompt": inner}
    assert await keys(Task.TRANSCRIPTION, forged) != await keys(Task.TRANSCRIPTION, body)


@pytest.mark.parametrize(
    ("task", "dialect", "body", "is_repeatable"),
    [
        (Task.IMAGE, "hf", {"prompt": "fox"}, False),
        (Task.IMAGE, "hf", {"prompt": "fox", "seed": 0}, True),
        (Task.SPEECH, "hf", {"input": "Hello.", "voice": "alloy"}, True),
        (Task.EMBEDDING, "hf", {"input": "Hello."}, True),
        (Task.TRANSCRIPTION, "openai", {"task": "transcribe"}, True),
        (Task.TRANSCRIPTION, "openai", {"task": "transcribe", "temperature": 0.0}, True),
        (Task.TRANSCRIPTION, "openai", {"task": "transcribe", "temperature": 0.5}, False),
        (Task.TRANSCRIPTION, "openai", {"task": "transcribe", "temperature": 1, "seed": "1"}, True),
        (Task.TRANSCRIPTION, "hf", {"task": "transcribe", "temperature": 1, "seed": "1"}, False),
    ],
)
async def test_what_is_seeded_or_not_drawn_at_all_is_repeatable(
    task: Task, dialect: str, body: Json, is_repeatable: bool
) -> None:
    assert (await job(task, body, dialect=dialect)).is_repeatable is is_repeatable
