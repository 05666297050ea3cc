"""`POST /v1/images/generations`: the pictures that come back, and what is told of them."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from PIL import Image

from tests.gateway.image_route.painting import (
    CREDENTIAL,
    DIALECTS,
    as_json,
    http,
    made,
    opened,
    painted,
    painting,
)
from tests.scripted_upstream import Upstream

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_picture_comes_back_byte_for_byte(sdk: AsyncOpenAI, dialect: str) -> None:
    model = f"{dialect}/painter"
    assert await made(sdk, model=model, extra_body={"seed": 5}) == [painted(5)]
    assert await made(sdk, model=model, output_format="png", extra_body={"seed": 5}) == [painted(5)]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_seed_gives_the_same_picture_alone_and_among_four(
    sdk: AsyncOpenAI, dialect: str
) -> None:
    options = {"model": f"{dialect}/painter", "extra_body": {"seed": 1000}}
    alone, among_four = await made(sdk, **options), await made(sdk, n=4, **options)
    assert alone == [among_four[0]]
    assert among_four == [painted(1000 + at) for at in range(4)]


async def test_several_pictures_without_a_seed_are_different_ones(sdk: AsyncOpenAI) -> None:
    assert len(set(await made(sdk, n=4))) == 4


async def test_the_answer_tells_of_the_picture_as_openai_does(sdk: AsyncOpenAI) -> None:
    answer = await sdk.images.generate(model="hf/painter", prompt="a red fox")
    assert (answer.output_format, answer.size) == ("png", "32x24")
    assert answer.created > 1_700_000_000
    assert answer.usage is not None
    assert answer.usage.model_dump(exclude_none=True) == {
        "input_tokens": 0,
        "output_tokens": 0,
        "total_tokens": 0,
        "input_tokens_details": {"text_tokens": 0, "image_tokens": 0},
    }


async def test_what_an_openai_upstream_tells_is_passed_on(
    sdk: AsyncOpenAI, upstream: Upstream
) -> None:
    image = {"b64_json": base64.b64encode(painted()).decode(), "revised_prompt": "A red fox."}
    usage = {
        "input_tokens": 9,
        "output_tokens": 272,
        "total_tokens": 281,
        "input_tokens_details": {"text_tokens": 9, "image_tokens": 0},
    }
    told = {"background": "opaque", "quality": "low", "usage": usage}
    upstream.play(as_json({"created": 1, "data": [image], **told}))
    answer = await sdk.images.generate(model="openai/painter", prompt="a red fox")
    assert answer.data
    assert answer.data[0].revised_prompt == "A red fox."
    assert (answer.background, answer.quality) == ("opaque", "low")
    assert answer.usage
    assert answer.usage.output_tokens == 272


async def test_all_dialects_get_their_own_credential(sdk: AsyncOpenAI, upstream: Upstream) -> None:
    for dialect in DIALECTS:
        await made(sdk, model=f"{dialect}/painter")
    credentials = [visit.headers["authorization"] for visit in upstream.visits]
    assert credentials == [f"Bearer {CREDENTIAL}"] * 4 + [f"Key {CREDENTIAL}"]


async def test_what_cannot_be_honoured_is_named(http_client: httpx.AsyncClient) -> None:
    wishes = {
        "quality": "high",
        "style": "vivid",
        "background": "transparent",
        "moderation": "low",
        "user": "someone",
        "stream": True,
        "partial_images": 2,
    }
    answer = await http_client.post(
        "/images/generations", json={"model": "hf/painter", "prompt": "fox", **wishes}
    )
    named = answer.headers["x-dragoman-ignored"]
    assert named == "quality, style, background, moderation, partial_images"


@pytest.mark.parametrize("form", ["jpeg", "webp", "png"])
@pytest.mark.parametrize("wanted", ["png", "jpeg", "webp"])
async def test_the_format_is_the_one_asked_for(
    sdk: AsyncOpenAI, upstream: Upstream, form: str, wanted: Any
) -> None:
    upstream.play(painting(form=form))
    [data] = await made(sdk, output_format=wanted)
    with opened(data) as picture:
        assert (picture.format, picture.size) == (wanted.upper(), (32, 24))
    if form == wanted:
        assert data == painted(form=form)


async def test_without_a_wish_the_format_is_the_upstreams(
    sdk: AsyncOpenAI, upstream: Upstream
) -> None:
    upstream.play(painting(form="jpeg"))
    answer = await sdk.images.generate(model="hf/painter", prompt="fox")
    assert answer.data
    assert base64.b64decode(answer.data[0].b64_json or "") == painted(form="jpeg")
    assert answer.output_format == "jpeg"


@pytest.mark.parametrize("form", ["gif", "bmp", "tiff"])
async def test_a_format_that_openai_has_no_name_for_becomes_png(
    sdk: AsyncOpenAI, upstream: Upstream, form: str
) -> None:
    upstream.play(painting(form=form))
    with opened((await made(sdk))[0]) as picture:
        assert picture.format == "PNG"


async def test_compression_is_obeyed_by_the_gateway(sdk: AsyncOpenAI, upstream: Upstream) -> None:
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 80).save(noise, "png")
    upstream.play(http(noise.getvalue()))
    sizes = [
        len((await made(sdk, output_format="jpeg", output_compression=quality))[0])
        for quality in (10, 90)
    ]
    assert sizes[0] * 2 < sizes[1]


async def test_what_an_upstream_has_compressed_is_not_compressed_again(
    sdk: AsyncOpenAI, upstream: Upstream
) -> None:
    picture = painted(form="jpeg")
    data = [{"b64_json": base64.b64encode(picture).decode()}]
    upstream.play(as_json({"created": 1, "data": data, "output_format": "jpeg"}))
    wish = {"model": "openai/painter", "output_format": "jpeg", "output_compression": 10}
    assert await made(sdk, **wish) == [picture]
