"""The images in an answer, whatever its form: bytes, or JSON with base64 or `data:` URLs in it.

Who answers how:

    the image itself                                      hf
    "iVBORw0…"                                            Inference Endpoints' toolkit
    {"data": [{"b64_json" | "url", "revised_prompt"}]}    OpenAI and those near to it
    {"output": [url]}, {"output": url}                    what huggingface.js takes from hf
    {"images": [{"url"}]}, {"image": {"url"}}             fal
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from typing import Any

import msgspec

from adapters import refusals
from adapters.base import Json, Link, Media
from adapters.errors import Interrupted

_JSON_BEGINS_WITH = (b"{", b"[", b'"')  # and no image does
_LISTS = ("data", "output", "images", "image")
_PLACES = ("b64_json", "url", "image")


def parse_answer(body: bytes, headers: Mapping[str, str]) -> Json:
    """Return the answer object, its `data` a list of `{"media": Media}` and what else was told.

    Raises UpstreamError for an error under status 200, Interrupted for an answer without images
    or with mere addresses of them: what an upstream writes into an answer is not fetched.
    """
    if not body.lstrip()[:1].startswith(_JSON_BEGINS_WITH):
        return {"data": [{"media": Media(body, headers.get("content-type", ""))}]}
    try:
        answer = msgspec.json.decode(body)
    except msgspec.DecodeError as exc:
        raise Interrupted("The upstream sent JSON that cannot be read.") from exc
    told = answer if isinstance(answer, dict) else {}
    if told.get("error"):
        raise refusals.from_object(told)
    images = [_parse_image(item) for item in _items(answer)]
    if not images:
        raise Interrupted("The upstream's answer holds no image.")
    return {**told, "data": images}


def _items(answer: Any) -> list[Any]:
    found = answer
    if isinstance(answer, dict):
        found = next((answer[name] for name in _LISTS if answer.get(name)), [])
    return found if isinstance(found, list) else [found]


def _parse_image(item: Any) -> Json:
    fields = item if isinstance(item, dict) else {"b64_json": item}
    text = next((fields[place] for place in _PLACES if fields.get(place)), None)
    if not isinstance(text, str):
        raise Interrupted("The upstream's answer holds no image.")
    rest = {name: value for name, value in fields.items() if name not in _PLACES}
    return {**rest, "media": parse_media(text)}


def parse_media(text: str, *, hosts: tuple[str, ...] = ()) -> Media | Link:
    """Return what base64 or a `data:` URL holds, or a Link if addresses at `hosts` are fetched.

    Raises Interrupted for any other text.
    """
    kind, encoded = "", text
    if text[:5].lower() == "data:":
        head, _, encoded = text.partition(",")
        kind = head[5:].partition(";")[0]
    elif text[:8].lower().startswith(("http://", "https://")):
        if hosts:
            return Link(text, hosts)
        raise Interrupted(
            "The upstream answered with the address of an image. Such addresses are not fetched: "
            "it must send the image itself."
        )
    try:
        return Media(binascii.a2b_base64(encoded), kind)
    except (binascii.Error, ValueError) as exc:
        raise Interrupted("The upstream sent a file that is not base64.") from exc
