"""Images in a native prompt, which is one text.

text-generation-inference takes every `![](…)` in a prompt for an image (router/src/validation.rs,
`prepare_input`). A data URL is decoded; any other URL is fetched by that server, wherever it
leads. So only the gateway writes this mark: in what comes from clients it is broken up.
"""

from __future__ import annotations

from collections.abc import Iterator

from adapters.base import Request
from adapters.errors import DialectError

_BEGIN, _BROKEN = "![](", "!\u200b[]("


def prompts_with_images(request: Request) -> tuple[str, ...]:
    """Return the prompts with the images in place of their marks, in order.

    Only a chat has images. Raises DialectError when its marks are not as many.
    """
    if not request.images:
        return tuple(_broken_up(prompt) for prompt in request.prompts)
    pieces = request.prompts[0].split(request.image_mark)
    if len(pieces) != len(request.images) + 1:
        raise DialectError(
            f"The prompt has room for {len(pieces) - 1} of {len(request.images)} images.",
            param="messages",
        )
    return ("".join(_interleaved(pieces, request.images)),)


def ignored_details(request: Request) -> tuple[str, ...]:
    """Return the names of the wishes about images that a prompt cannot tell."""
    if not request.images:
        return ()
    details = (
        part["image_url"].get("detail")
        for message in request.body["messages"]
        if isinstance(message.get("content"), list)
        for part in message["content"]
        if part["type"] == "image_url"
    )
    return ("image_url.detail",) if any(detail not in (None, "auto") for detail in details) else ()


def _interleaved(pieces: list[str], images: tuple[str, ...]) -> Iterator[str]:
    yield _broken_up(pieces[0])
    for image, piece in zip(images, pieces[1:], strict=True):
        yield from (_BEGIN, image, ")", _broken_up(piece))


def _broken_up(text: str) -> str:
    return text.replace(_BEGIN, _BROKEN)
