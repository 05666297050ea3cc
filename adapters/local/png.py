"""Pictures as PNG files."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB_8_BIT = (8, 2, 0, 0, 0)
_UP = b"\x02"
_COMPRESSION = 6


def render_png(picture: NDArray[np.uint8]) -> bytes:
    """Return the file of a picture (height, width, 3)."""
    height, width, _ = picture.shape
    # Each row as its difference to the one above makes the file a third smaller.
    differences = picture.copy()
    differences[1:] -= picture[:-1]
    rows = b"".join(_UP + row.tobytes() for row in differences)
    return (
        _SIGNATURE
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, *_RGB_8_BIT))
        + _chunk(b"IDAT", zlib.compress(rows, _COMPRESSION))
        + _chunk(b"IEND", b"")
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
