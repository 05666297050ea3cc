"""Pictures, sounds and vectors by the native API, at servers that speak it and at those that do
not.
"""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image

from gateway.audio import Pcm, encode
from tests.acceptance.native.answers import reply

pytestmark = pytest.mark.anyio

SOUND = encode(Pcm(16_000, 1, b"\0\1" * 16_000), "flac")  # one second


def picture() -> bytes:
    made = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(made, "PNG")
    return made.getvalue()


PICTURE = picture()


async def test_a_picture_comes_as_bytes(client, upstream, recorded):
    upstream.play(reply(PICTURE, kind="image/png", x_compute_type="gpu"))
    got = await client.post("/models/org/picture", json={"inputs": "A cat"})
    assert (got.headers["content-type"], got.content) == ("image/png", PICTURE)
    [visit] = upstream.visits
    assert (visit.headers["accept"], visit.headers["x-use-cache"]) == ("image/png", "0")
    row = await recorded(got)
    assert (row["task"], row["images"], row["status"]) == ("image", 1, "ok")


async def test_the_type_that_the_client_wants_is_asked_for(client, upstream):
    upstream.play(reply(PICTURE, kind="image/jpeg"))
    headers = {"accept": "image/jpeg"}
    got = await client.post("/models/org/picture", json={"inputs": "A dog"}, headers=headers)
    assert upstream.visits[0].headers["accept"] == "image/jpeg"
    assert got.headers["content-type"] == "image/jpeg"


async def test_a_seeded_picture_is_kept(client, upstream):
    upstream.play(reply(PICTURE, kind="image/png", x_compute_type="gpu"))
    body = {"inputs": "A fox", "parameters": {"seed": 3}}
    got = [await client.post("/models/org/picture", json=body) for _ in range(2)]
    assert [one.headers["x-dragoman-cache"] for one in got] == ["miss", "hit"]
    assert [one.headers["x-compute-type"] for one in got] == ["gpu", "cache"]
    assert got[1].content == PICTURE
    assert got[1].headers["content-type"] == "image/png"


async def test_what_was_kept_for_openai_is_not_taken_for_a_native_answer(client, upstream):
    upstream.play(reply(PICTURE, kind="image/png"))
    asked = {"model": "org/picture", "prompt": "Both", "seed": 1}
    assert (await client.post("/v1/images/generations", json=asked)).status_code == 200
    got = await client.post("/models/org/picture", json=upstream.visits[0].body)
    assert got.content == PICTURE
    assert len(upstream.visits) == 2


async def test_a_picture_can_be_sent_as_it_is(client, upstream):
    upstream.play(reply(PICTURE, kind="image/png"))
    got = await client.post("/models/org/picture", content=PICTURE)
    assert got.status_code == 200
    assert upstream.visits[0].headers["content-type"] == "image/png"
    assert upstream.visits[0].raw.endswith(PICTURE)


async def test_speech_counts_the_characters_spoken(client, upstream, recorded):
    upstream.play(reply(SOUND, kind="audio/flac"))
    got = await client.post("/models/org/sound", json={"inputs": "Hello"})
    assert (got.headers["content-type"], got.content) == ("audio/flac", SOUND)
    row = await recorded(got)
    assert (row["characters"], row["audio_ms"]) == (5, 1000)


@pytest.mark.parametrize("headers", [{}, {"content-type": "audio/flac"}])
async def test_a_sound_may_come_without_a_type(client, upstream, recorded, headers):
    upstream.play(reply({"text": "hello"}))
    got = await client.post(
        "/models/org/ears", content=SOUND, headers={"x-use-cache": "0", **headers}
    )
    assert got.json() == {"text": "hello"}
    assert upstream.visits[0].headers["content-type"] == "audio/flac"
    assert upstream.visits[0].raw.endswith(SOUND)
    assert (await recorded(got))["audio_ms"] == 1000


async def test_a_sound_may_come_in_base64(client, upstream):
    upstream.play(reply({"text": "hello"}))
    body = {"inputs": base64.b64encode(SOUND).decode(), "parameters": {"return_timestamps": True}}
    got = await client.post("/models/org/ears", json=body)
    assert got.json() == {"text": "hello"}
    assert upstream.visits[0].body == body


@pytest.mark.parametrize("content", [b"no sound at all", b'{"inputs": "!"}'])
async def test_what_is_no_sound_is_refused(client, upstream, content):
    got = await client.post("/models/org/ears", content=content)
    assert (got.status_code, got.json()["error_type"]) == (400, "validation")
    assert not upstream.visits


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/models/org/vector", "/hf/models/up/stream"),
        (
            "/pipeline/feature-extraction/org/vector",
            "/hf/models/up/stream/pipeline/feature-extraction",
        ),
        (
            "/models/org/vector/pipeline/sentence-similarity",
            "/hf/models/up/stream/pipeline/sentence-similarity",
        ),
        (
            "/hf-inference/models/org/vector/pipeline/feature-extraction",
            "/hf/models/up/stream/pipeline/feature-extraction",
        ),
        ("/models/org/tei", "/tei/"),
        ("/pipeline/feature-extraction/org/tei", "/tei/embed"),
    ],
)
async def test_pipelines_are_asked_where_the_server_has_them(client, upstream, path, asked):
    upstream.play(reply([[0.1, 0.2]]))
    body = {"inputs": path, "normalize": True}
    got = await client.post(path, json=body)
    assert got.json() == [[0.1, 0.2]]
    assert (upstream.visits[0].path, upstream.visits[0].body) == (asked, body)


async def test_texts_anywhere_in_the_inputs_count_as_tokens(client, upstream, recorded):
    upstream.play(reply([0.5]), reply([[1.0]], x_compute_tokens="9"))
    inputs = {"source_sentence": "x" * 40, "sentences": ["y" * 4]}
    got = [
        await client.post("/models/org/vector", json={"inputs": each}) for each in (inputs, "told")
    ]
    rows = [await recorded(one) for one in got]
    assert [(row["input_tokens"], row["estimated"]) for row in rows] == [(11, True), (9, False)]


async def test_an_error_under_status_200_is_one(client, upstream, recorded):
    upstream.play(reply({"error": "unknown error"}))
    got = await client.post("/models/org/vector", json={"inputs": "Under 200"})
    assert (got.status_code, got.json()["error"]) == (502, "unknown error")
    assert (await recorded(got))["status"] == "error"


async def test_a_picture_of_an_openai_server_comes_as_bytes(client, upstream):
    made = {"data": [{"b64_json": base64.b64encode(PICTURE).decode()}]}
    upstream.play(reply(made))
    parameters = {"width": 64, "height": 32, "seed": 4, "target_lang": "x"}
    body = {"inputs": "A cat", "parameters": parameters}
    got = await client.post("/models/open/picture", json=body)
    sent = upstream.visits[0].body
    assert (sent["prompt"], sent["size"], sent["seed"]) == ("A cat", "64x32", 4)
    assert (got.headers["content-type"], got.content) == ("image/png", PICTURE)
    assert got.headers["x-dragoman-ignored"] == "target_lang"


async def test_a_sound_of_an_openai_server_comes_as_flac(client, upstream):
    upstream.play(reply(SOUND, kind="audio/flac"))
    got = await client.post("/models/open/sound", json={"inputs": "Hello"})
    assert upstream.visits[0].body["response_format"] == "flac"
    assert (got.headers["content-type"], got.content) == ("audio/flac", SOUND)


async def test_vectors_of_an_openai_server_come_as_arrays(client, upstream):
    upstream.play(reply({"data": [{"embedding": [0.5, 0.25]}], "usage": {"prompt_tokens": 1}}))
    got = await client.post("/models/open/vector", json={"inputs": "Hello"})
    assert got.json() == [[0.5, 0.25]]


async def test_words_of_an_openai_server_come_as_chunks(client, upstream):
    words = [{"word": "hello", "start": 0.0, "end": 0.5}]

    async def answer(visit) -> None:
        await visit.send(reply({"text": "hello", "words": words}))

    upstream.play(answer)
    body = {"inputs": base64.b64encode(SOUND).decode(), "parameters": {"return_timestamps": "word"}}
    got = await client.post("/models/open/ears", json=body)
    assert got.json() == {"text": "hello", "chunks": [{"text": "hello", "timestamp": [0.0, 0.5]}]}


async def test_pictures_cannot_be_changed_there(client, upstream):
    got = await client.post("/models/open/picture", content=PICTURE)
    assert (got.status_code, got.json()["error_type"]) == (501, "not_supported")
    assert json.dumps(got.json())


async def test_any_other_pipeline_is_passed_on_as_it_is(client, upstream, recorded):
    upstream.play(reply([{"token_str": "Paris", "score": 0.9}]))
    sent = b'{"inputs":"[MASK] is in France","parameters":{"top_k":1}}'
    path = "/pipeline/fill-mask/org/masked"
    got = [
        await client.post(path, content=sent, headers={"content-type": "application/json"})
        for _ in range(2)
    ]
    assert got[0].json() == [{"token_str": "Paris", "score": 0.9}]
    [visit] = upstream.visits
    assert visit.path == "/hf/models/up/stream/pipeline/fill-mask"
    assert visit.raw.endswith(sent)
    rows = [await recorded(one) for one in got]
    assert [(row["task"], row["input_tokens"], row["cached"]) for row in rows] == [
        ("pipeline", 5, False),
        ("pipeline", 0, True),
    ]


async def test_no_other_server_knows_such_pipelines(client, upstream):
    got = await client.post("/models/open/masked", json={"inputs": "[MASK]"})
    assert (got.status_code, got.json()["error_type"]) == (400, "validation")
    assert not upstream.visits


async def test_a_pipeline_that_is_not_there_tells_nothing_of_the_model(client, upstream):
    missing = reply({"error": "Not Found"}, status="404 Not Found")
    upstream.play(missing, reply([[0.1]]))
    got = [
        await client.post(path, json={"inputs": "Somebody else's"})
        for path in ("/pipeline/invented/org/vector", "/models/org/vector")
    ]
    assert [one.status_code for one in got] == [400, 200]
