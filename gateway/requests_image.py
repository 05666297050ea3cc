"""OpenAI's image requests: what is accepted, checked where it enters.

Source: the types of the official Python SDK, 3.54. `seed` and what follows it are not OpenAI's,
but what the servers behind the gateway take.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Required

from pydantic import AfterValidator, Field, TypeAdapter
from pydantic_core import PydanticKnownError

from gateway.requests import OpenObject, Seed

_LONGEST_PROMPT = 32_000  # characters
_SMALLEST_SIDE, _LARGEST_SIDE = 16, 4096
_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})", re.ASCII)


def _check_size(size: str) -> str:
    if size == "auto":
        return size
    if found := _SIZE.fullmatch(size):
        width, height = map(int, found.groups())
        if min(width, height) >= _SMALLEST_SIDE and max(width, height) <= _LARGEST_SIDE:
            return size
    sides = f"'WIDTHxHEIGHT' with sides of {_SMALLEST_SIDE} to {_LARGEST_SIDE} pixels"
    raise PydanticKnownError("literal_error", {"expected": f"'auto' or {sides}"})


class ImageRequest(OpenObject, total=False):
    """`POST /v1/images/generations`."""

    model: Required[str]
    prompt: Required[Annotated[str, Field(min_length=1, max_length=_LONGEST_PROMPT)]]
    n: Annotated[int, Field(ge=1, le=10)] | None
    size: Annotated[str, AfterValidator(_check_size)] | None
    response_format: Literal["b64_json", "url"] | None
    output_format: Literal["png", "jpeg", "webp"] | None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None
    stream: bool | None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None
    quality: str | None
    style: str | None
    background: str | None
    moderation: str | None
    user: str | None
    seed: Seed | None
    negative_prompt: Annotated[str, Field(max_length=_LONGEST_PROMPT)] | None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None
    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None
    scheduler: Annotated[str, Field(min_length=1, max_length=100)] | None


IMAGE: TypeAdapter[Any] = TypeAdapter(ImageRequest)
