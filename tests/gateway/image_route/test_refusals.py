"""Image requests and upstream answers that are no good: each ends in an error that says why."""

from __future__ import annotations

import httpx
import pytest
from openai import AsyncOpenAI, BadRequestError, InternalServerError

from tests.gateway.image_route.painting import as_json, http, made, painted
from tests.gateway.running import envelope
from tests.scripted_upstream import Upstream

pytestmark = pytest.mark.anyio


BROKEN = {
    "text": http(b"fox", kind="text/plain"),
    "nothing": http(b""),
    "half a picture": http(painted()[:20]),
    "a picture of 65,535 x 65,535": http(painted()[:16] + b"\0\0\xff\xff" * 2 + painted()[24:]),
    "an address": as_json({"output": ["http://127.0.0.1:1/a.png"]}),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
async def test_an_answer_that_is_no_picture_is_the_upstreams_failure(
    sdk: AsyncOpenAI, upstream: Upstream, body: bytes
) -> None:
    upstream.play(body)
    with pytest.raises(InternalServerError) as failure:
        await made(sdk)
    assert (failure.value.status_code, failure.value.code) == (502, "upstream_error")


WRONG: dict[str, tuple[dict[str, object], str]] = {
    "no prompt": ({"prompt": None}, "prompt"),
    "an empty prompt": ({"prompt": ""}, "prompt"),
    "an endless prompt": ({"prompt": "x" * 32_001}, "prompt"),
    "a list for a prompt": ({"prompt": ["fox"]}, "prompt"),
    "no image": ({"n": 0}, "n"),
    "eleven images": ({"n": 11}, "n"),
    "a text for a number": ({"n": "2"}, "n"),
    "a size in words": ({"size": "large"}, "size"),
    "a size without a height": ({"size": "512x"}, "size"),
    "a negative size": ({"size": "-512x512"}, "size"),
    "no width": ({"size": "0x512"}, "size"),
    "too small": ({"size": "8x8"}, "size"),
    "too large": ({"size": "8192x64"}, "size"),
    "digits of another script": ({"size": "5١٢x512"}, "size"),
    "a number for a size": ({"size": 512}, "size"),
    "an unknown format": ({"output_format": "gif"}, "output_format"),
    "an unknown way": ({"response_format": "base64"}, "response_format"),
    "too little compression": ({"output_compression": 101}, "output_compression"),
    "too many partial images": ({"stream": True, "partial_images": 4}, "partial_images"),
    "a seed beyond 64 bits": ({"seed": 2**64}, "seed"),
    "a seed in words": ({"seed": "x"}, "seed"),
    "no steps": ({"num_inference_steps": 0}, "num_inference_steps"),
    "endless guidance": ({"guidance_scale": 1e9}, "guidance_scale"),
    "a list for a negative prompt": ({"negative_prompt": []}, "negative_prompt"),
    "no model": ({"model": None}, "model"),
}


@pytest.mark.parametrize(("wrong", "param"), WRONG.values(), ids=WRONG)
async def test_what_is_wrong_is_named_and_nothing_reaches_the_upstream(
    http_client: httpx.AsyncClient, upstream: Upstream, wrong: dict[str, object], param: str
) -> None:
    wish = {"model": "hf/painter", "prompt": "fox", **wrong}
    answer = await http_client.post("/images/generations", json=wish)
    assert answer.status_code == 400
    assert envelope(answer.content)["param"] == param
    assert upstream.visits == []


async def test_a_body_over_the_limit_is_refused(
    http_client: httpx.AsyncClient, upstream: Upstream
) -> None:
    wish = {"model": "hf/painter", "prompt": "fox", "unknown": "x" * 2**20}
    answer = await http_client.post("/images/generations", json=wish)
    assert answer.status_code == 413
    assert envelope(answer.content)["code"] == "request_too_large"
    assert upstream.visits == []


async def test_an_upstreams_refusal_reaches_the_client(
    sdk: AsyncOpenAI, upstream: Upstream
) -> None:
    upstream.play(as_json({"error": "width must be a multiple of 8"}, status=400))
    with pytest.raises(BadRequestError, match="multiple of 8"):
        await made(sdk, size="100x100")
