"""The images of a chat: found in its messages, checked, and made small enough for an upstream.

An upstream that takes prompts gets all images as data URLs, and is never sent to fetch one. A
server that speaks OpenAI gets the parts as they came, unless URLs are resolved here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from adapters.base import Json, Request
from gateway.errors import BadRequest
from gateway.exchange import Exchange
from gateway.fetching import FetchFailed
from gateway.images import (
    CONTENT_TYPES,
    BadImage,
    measure,
    parse_data_url,
    render_data_url,
    shrink_to,
    sniff,
    transcode,
)
from gateway.threads import Threads
from gateway.upstreams.target import Target

# Returns the image behind a URL. Raises FetchFailed.
Fetch = Callable[[str], Awaitable[bytes]]

_TAKEN = frozenset({"png", "jpeg", "gif", "webp", "tiff"})  # by TGI; all else becomes a PNG
_MOST_IMAGES = 100
_MOST_DECODED_AT_ONCE = 2  # in a worker: one image of 50 million pixels takes 200 MB
_FETCH_SECONDS = 30.0
_LONGEST_IMAGES = 64_000_000  # as data URLs: of one chat, and of all its choices together
_OTHER_BYTES = 2048  # of a payload, beside the prompt and what is in the client's own fields
_JPEG_HEAD = len("data:image/jpeg;base64,")


@dataclass(frozen=True, slots=True)
class _Link:
    """An image as the client named it; `param` is where."""

    param: str
    url: str

    @property
    def is_data(self) -> bool:
        return self.url[:5].lower() == "data:"

    def refused(self, why: str, *, code: str = "invalid_image") -> BadRequest:
        return BadRequest(f"{self.param!r} cannot be used: {why}.", code=code, param=self.param)


class Vision:
    """Puts the images of chats into requests. Without `fetch`, URLs are not resolved here."""

    def __init__(self, fetch: Fetch | None = None) -> None:
        self._fetch = fetch
        self._decoding = Threads(_MOST_DECODED_AT_ONCE)

    async def __call__(self, request: Request, exchange: Exchange, target: Target) -> Request:
        """Return `request` with its images as `target` takes them; notes how many were scaled.

        Raises BadRequest naming the image that cannot be used.
        """
        links = _links(request.body)
        if not links:
            return request
        if not request.image_mark:
            return await self._resolved(request, links) if self._fetch else request
        images = await self._loaded(links)
        limit = target.upstream.max_body_bytes
        if limit is not None:
            room = limit - _size_without_images(request)
            images, exchange.scaled_images = await self._fitted(images, room)
        _check_choices(request.body.get("n", 1), images)
        return replace(request, images=tuple(images))

    async def _resolved(self, request: Request, links: Sequence[_Link]) -> Request:
        """Return a request for a server that speaks OpenAI, with its images inside."""
        images = await self._loaded(links)
        return replace(request, body=request.body | {"messages": _with_urls(request.body, images)})

    async def _loaded(self, links: Sequence[_Link]) -> list[str]:
        """Return data URLs with exactly one semicolon, of images that can be decoded."""
        if len(links) > _MOST_IMAGES:
            raise links[_MOST_IMAGES].refused(f"a chat may hold {_MOST_IMAGES} images")
        images: list[str] = []
        size = 0
        try:
            async with asyncio.timeout(_FETCH_SECONDS):
                for link in links:
                    images.append(await self._load(link))
                    size += len(images[-1])
                    if size > _LONGEST_IMAGES:
                        raise link.refused(f"the images are over {_LONGEST_IMAGES} bytes together")
        except TimeoutError:
            raise links[len(images)].refused("the images did not arrive in time") from None
        return images

    async def _load(self, link: _Link) -> str:
        try:
            source = link.url if link.is_data else await self._fetched(link)
            return await self._decoding.run(_sendable, source)
        except (BadImage, FetchFailed) as error:
            raise link.refused(error.message) from None

    async def _fetched(self, link: _Link) -> bytes:
        if self._fetch is None:
            raise link.refused(
                "this gateway fetches no images ('security.fetch_images' is off), so send a data "
                "URL: data:image/png;base64,…",
                code="image_url_not_allowed",
            )
        return await self._fetch(link.url)

    async def _fitted(self, images: list[str], room: int) -> tuple[list[str], int]:
        """Return the images within `room` bytes together, and how many were scaled down for it."""
        largest = share([len(image) for image in images], room)
        scaled = 0
        for at, image in enumerate(images):
            if len(image) <= largest:
                continue
            try:
                images[at] = await self._decoding.run(_shrunk, image, largest)
            except BadImage:
                raise BadRequest(
                    f"The images of 'messages' are too large for the model's server, which leaves "
                    f"{max(0, room)} bytes for them, and cannot be scaled down to that.",
                    status=413,
                    code="request_too_large",
                    param="messages",
                ) from None
            scaled += 1
        return images, scaled


def share(sizes: Sequence[int], room: int) -> int:
    """Return the size to which the largest must come down, so that all fit into `room`."""
    for rank, size in enumerate(sorted(sizes)):
        largest = room // (len(sizes) - rank)
        if size > largest:
            return largest
        room -= size
    return max(sizes)


def _links(body: Json) -> list[_Link]:
    """Return the images of a chat's messages, in order."""
    return [
        _Link(f"messages[{index}].content[{at}].image_url.url", part["image_url"]["url"])
        for index, message in enumerate(body.get("messages", ()))
        for at, part in enumerate(_parts(message))
        if part["type"] == "image_url"
    ]


def _parts(message: Json) -> list[Json]:
    content = message.get("content")
    return content if isinstance(content, list) else []


def _with_urls(body: Json, urls: Sequence[str]) -> list[Json]:
    """Return the messages with the URLs of their images replaced, in order."""
    rest = iter(urls)

    def replaced(part: Json) -> Json:
        if part["type"] != "image_url":
            return part
        return part | {"image_url": part["image_url"] | {"url": next(rest)}}

    return [
        message | {"content": [replaced(part) for part in parts]}
        if (parts := _parts(message))
        else message
        for message in body["messages"]
    ]


def _sendable(source: str | bytes) -> str:
    """Return a data URL; the one that came if it is as it should be, as each copy takes MBs."""
    data = parse_data_url(source) if isinstance(source, str) else source
    measure(data)
    form = sniff(data)
    if form not in _TAKEN:
        return render_data_url(transcode(data, "png"))
    head = f"data:{CONTENT_TYPES[form]};base64,"
    if isinstance(source, str) and source.startswith(head) and "%" not in source:
        return source
    return render_data_url(data)


def _shrunk(image: str, limit: int) -> str:
    """Return a data URL of at most `limit` characters. Raises BadImage."""
    limit_bytes = (limit - _JPEG_HEAD) // 4 * 3
    if limit_bytes <= 0:
        raise BadImage("there is no room for the image")
    return render_data_url(shrink_to(parse_data_url(image), limit_bytes))


def _size_without_images(request: Request) -> int:
    """Return about how many bytes of an upstream's body are no images, rather more than less."""
    other: dict[str, Any] = {
        name: value for name, value in request.body.items() if name != "messages"
    }
    return sum(len(msgspec.json.encode(value)) for value in (request.prompts, other)) + _OTHER_BYTES


def _check_choices(choices: int, images: Sequence[str]) -> None:
    """Refuse what would be sent in too many copies: a native server makes one choice per call."""
    size = sum(map(len, images))
    if choices > 1 and choices * size > _LONGEST_IMAGES:
        raise BadRequest(
            f"'n' is {choices}: with these images at most {_LONGEST_IMAGES // size} are made.",
            code="above_max_value",
            param="n",
        )
