"""Images: what they are, how large, and the same in another format or size.

Formats are told by their first bytes; content types are often wrong. What decodes pixels
(`transcode`, `shrink_to`) is CPU work: call it off the loop. Importing Pillow takes a while and
some MiB, so it is imported by the first image and not with this module.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from PIL.Image import Image

LIMIT_PIXELS = 50_000_000  # 200 MB decoded: 8K has 33 million, most cameras fewer than 50
CONTENT_TYPES = {name: f"image/{name}" for name in ("png", "jpeg", "webp", "gif", "bmp", "tiff")}

_MAGIC: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("png", re.compile(rb"\x89PNG\r\n\x1a\n")),
    ("jpeg", re.compile(rb"\xff\xd8\xff")),
    ("webp", re.compile(rb"RIFF....WEBP", re.DOTALL)),
    ("gif", re.compile(rb"GIF8[79]a")),
    ("bmp", re.compile(rb"BM.{4}\0\0\0\0", re.DOTALL)),
    ("tiff", re.compile(rb"II\*\0|MM\0\*")),
)
_DATA_URL = re.compile(r"data:[^;,]*(?:;[^;,]*)*;base64,", re.IGNORECASE)
_SCAN = b"\xff\xda"  # JPEG's marker of one pass over the picture; pictures have about ten
_MOST_SCANS = 500  # each takes 16 ms at 50 million pixels, and 75 bytes
_QUALITY = 95
_SHRUNK_QUALITY = 85
_SMALLEST_SIDE = 16
_MARGIN = 0.9  # a little smaller than the sizes suggest, so that the first try mostly fits


class BadImage(Exception):
    """These bytes are no image that can be used. `message` holds none of them."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


def sniff(data: bytes) -> str | None:
    """Return the format that `data` begins as: a key of `CONTENT_TYPES`."""
    return next((name for name, magic in _MAGIC if magic.match(data)), None)


def measure(data: bytes) -> tuple[int, int]:
    """Return width and height as stored, from the header. Raises BadImage."""
    with _opened(data) as image:
        return image.size


def transcode(data: bytes, form: str, *, compression: int | None = None) -> bytes:
    """Return `data` in `form` (png, jpeg or webp); the first picture, turned upright.

    `compression` is OpenAI's `output_compression`, in fact JPEG's and WebP's quality, 0 to 100.
    What is in `form` already is returned as it is, unless a quality is asked of it. Where JPEG
    has no transparency, there is white. Raises BadImage.
    """
    if sniff(data) == form and (compression is None or form == "png"):
        return data
    with _opened(data) as image:
        return _render(_upright(image), form, _QUALITY if compression is None else compression)


def shrink_to(data: bytes, limit_bytes: int) -> bytes:
    """Return `data` if it is small enough, else the picture scaled down, as JPEG.

    Raises BadImage if it is none, or would be less than 16 pixels wide or high.
    """
    if len(data) <= limit_bytes:
        return data
    with _opened(data) as image:
        picture = _opaque(_upright(image))
        result = _render(picture, "jpeg", _SHRUNK_QUALITY)
        while len(result) > limit_bytes:
            picture = _scaled(picture, _MARGIN * math.sqrt(limit_bytes / len(result)))
            result = _render(picture, "jpeg", _SHRUNK_QUALITY)
    return result


def parse_data_url(url: str) -> bytes:
    """Return the image in a base64 `data:` URL, whatever media type it claims.

    Raises BadImage for other URLs, broken base64 and bytes that are no image.
    """
    if not (head := _DATA_URL.match(url)):
        raise BadImage("expected a data URL: data:image/png;base64,…")
    return _parse_base64(url[head.end() :])


def render_data_url(data: bytes) -> str:
    """Return `data:image/…;base64,…` with exactly one semicolon: TGI refuses parameters.

    Raises BadImage for bytes that are no image.
    """
    return f"data:{CONTENT_TYPES[_form(data)]};base64,{base64.b64encode(data).decode()}"


def _parse_base64(text: str) -> bytes:
    try:
        encoded = unquote_to_bytes(text) if "%" in text else text.encode("ascii")
        data = base64.b64decode(encoded, validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise BadImage("the image is not valid base64") from None
    _form(data)
    return data


def _form(data: bytes) -> str:
    form = sniff(data)
    if form is None:
        raise BadImage("the image is in no known format")
    return form


@contextmanager
def _opened(data: bytes) -> Iterator[Image]:
    """Open `data` by the format that it begins as; only what is asked for next is decoded."""
    from PIL import Image as pillow

    form = _form(data)
    if form == "jpeg" and data.count(_SCAN) > _MOST_SCANS:
        raise BadImage(f"the image has more than {_MOST_SCANS} scans")
    failures = (  # Pillow's own and those that its parsers let through
        *(OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, OverflowError),
        *(struct.error, zlib.error, pillow.DecompressionBombError, pillow.DecompressionBombWarning),
    )
    try:
        with pillow.open(io.BytesIO(data), formats=[form]) as image:
            if math.prod(image.size) > LIMIT_PIXELS:
                raise BadImage(f"the image has more than {LIMIT_PIXELS // 10**6} million pixels")
            yield image
    except failures as error:
        raise BadImage("the image cannot be decoded") from error


def _upright(image: Image) -> Image:
    """Return the picture as a viewer shows it; metadata do not survive a new encoding."""
    from PIL.ImageOps import exif_transpose

    image.load()
    return exif_transpose(image)


def _opaque(image: Image) -> Image:
    from PIL import Image as pillow

    if not image.has_transparency_data:
        return image.convert("RGB")
    with_alpha = image.convert("RGBA")
    white = pillow.new("RGBA", with_alpha.size, "white")
    white.alpha_composite(with_alpha)
    return white.convert("RGB")


def _scaled(image: Image, factor: float) -> Image:
    width, height = (int(side * factor) for side in image.size)
    if min(width, height) < _SMALLEST_SIDE:
        raise BadImage("the image cannot be made small enough")
    return image.resize((width, height))


def _render(image: Image, form: str, quality: int) -> bytes:
    target = io.BytesIO()
    match form:
        case "png":
            has_no_png_mode = image.mode not in {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
            (image.convert("RGB") if has_no_png_mode else image).save(target, "png")
        case "jpeg":
            _opaque(image).save(target, "jpeg", quality=quality)
        case _:
            mode = "RGBA" if image.has_transparency_data else "RGB"
            image.convert(mode).save(target, "webp", quality=quality)
    return target.getvalue()
