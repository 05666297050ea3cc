"""An upstream that paints the seed, in every dialect: equal seeds are equal pictures."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

from openai import AsyncOpenAI
from PIL import Image

from tests.scripted_upstream import Player, Visit

DIALECTS = ("hf", "openai", "together", "nscale", "fal")
CREDENTIAL = "the-upstreams-own-secret"


def painted(seed: int = 0, form: str = "png", size: tuple[int, int] = (32, 24)) -> bytes:
    """Return a picture that shows `seed` as its colour."""
    target = io.BytesIO()
    Image.new("RGB", size, (seed % 251, seed // 251 % 251, 99)).save(target, form)
    return target.getvalue()


def http(body: bytes, *, status: int = 200, kind: str = "image/png") -> bytes:
    head = f"HTTP/1.1 {status} .\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def as_json(answer: object, *, status: int = 200) -> bytes:
    return http(json.dumps(answer).encode(), status=status, kind="application/json")


def data_url(picture: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture).decode()}"


async def paint(visit: Visit) -> None:
    """Answer with what was asked for, in the dialect of the request's path."""
    body = visit.body
    if visit.path.startswith("/models/"):
        await visit.send(http(painted(body["parameters"].get("seed", 0))))
    elif visit.path == "/v1/images/generations":
        pictures = [painted(body.get("seed", 0) + at) for at in range(body.get("n", 1))]
        data = [{"b64_json": base64.b64encode(picture).decode()} for picture in pictures]
        await visit.send(as_json({"created": 1, "data": data}))
    else:
        await visit.send(as_json({"images": [{"url": data_url(painted(body.get("seed", 0)))}]}))


def painting(**options: Any) -> Player:
    async def play(visit: Visit) -> None:
        await visit.send(http(painted(visit.body["parameters"].get("seed", 0), **options)))

    return play


async def made(sdk: AsyncOpenAI, *, model: str = "hf/painter", **options: Any) -> list[bytes]:
    """Return the images that the SDK gets as base64."""
    answer = await sdk.images.generate(model=model, prompt="a red fox", **options)
    return [base64.b64decode(image.b64_json or "", validate=True) for image in answer.data or ()]


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))
