"""The value that the cache store holds for one answer.

    magic, version, flag | digest it belongs to | CRC-32 | payload
         4 + 1 + 1       |          32          |    4   |  rest     bytes, numbers big-endian

The payload is msgpack: `[made_at_ms, record_id, [piece, …]]`, as it is or, where that saves a
tenth (of large ones four tenths), as one frame of zstd; or `[made_at_ms, record_id, name]` of the
file that holds the value itself. The checksum covers all that comes before and after it, as it is
stored: 0.16 ms per MB.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from zstandard import ZstdCompressor, ZstdDecompressor, ZstdError, get_frame_parameters

from gateway.tapes import Piece

VERSION: Final = 1
LARGEST_BYTES: Final = 64 * 1024 * 1024  # unpacked
# Larger ones are encoded and decoded off the loop: zstd takes 1 to 2 ms per MB of text.
LOOP_BYTES: Final = 1024 * 1024

_MAGIC: Final = b"DrgA"
_RAW, _ZSTD, _REFERENCE = range(3)
_BOUND = struct.Struct(">4sBB32s")
_CHECKSUM = struct.Struct(">I")
_HEADER_BYTES: Final = _BOUND.size + _CHECKSUM.size

_LEVEL: Final = 1
_SMALLEST_BYTES: Final = 256  # smaller ones are not worth the call
_WORTHWHILE: Final = 0.9
# Of a large payload, this much of its middle tells whether compressing it is worth the time. For
# the quarter that pictures in base64 would save it is not: unpacking 1 MB of them takes 0.8 ms.
_LARGE_BYTES: Final = 512 * 1024
_SAMPLE_BYTES: Final = 64 * 1024
_WORTHWHILE_IF_LARGE: Final = 0.6


class BadRecord(Exception):
    """The value is not what `seal` makes for this key. `reason` is a word or two."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A kept answer: its pieces, or the name of the file that holds them, encoded."""

    made_at_ms: int  # Unix time
    record_id: str
    pieces: Sequence[Piece] = ()
    file: str | None = None


class _Answer(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    made_at_ms: int
    record_id: str
    pieces: list[Piece]


class _Reference(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    made_at_ms: int
    record_id: str
    name: str


class _Zstd(threading.local):
    """A thread's own contexts: making one takes 9 µs, and no two threads may use one at a time."""

    def __init__(self) -> None:
        self.compress = ZstdCompressor(level=_LEVEL).compress
        self.decompress = ZstdDecompressor().decompress


_zstd = _Zstd()
_pack = msgspec.msgpack.Encoder().encode
_unpack_answer = msgspec.msgpack.Decoder(_Answer).decode
_unpack_reference = msgspec.msgpack.Decoder(_Reference).decode


def pack(pieces: Sequence[Piece], *, made_at_ms: int, record_id: str) -> bytes:
    """Return the payload of a whole answer, which `seal` makes a value of.

    Raises what msgpack raises for what it cannot hold: TypeError, OverflowError.
    """
    return _pack(_Answer(made_at_ms, record_id, list(pieces)))


def seal(payload: bytes, *, digest: str) -> bytes:
    """Return the value that holds a payload. Raises ValueError for more than LARGEST_BYTES."""
    if len(payload) > LARGEST_BYTES:
        raise ValueError(f"expected at most {LARGEST_BYTES} bytes, got {len(payload)}")
    packed = _compress(payload)
    if packed is None:
        return _frame(payload, flag=_RAW, digest=digest)
    return _frame(packed, flag=_ZSTD, digest=digest)


def seal_reference(name: str, *, digest: str, made_at_ms: int, record_id: str) -> bytes:
    """Return the value that stands for the file of this name."""
    return _frame(_pack(_Reference(made_at_ms, record_id, name)), flag=_REFERENCE, digest=digest)


def decode(value: bytes, *, digest: str) -> Record:
    """Return what `pack` or `seal_reference` was given for this digest. Raises BadRecord."""
    flag, payload = _unframe(value, digest=digest)
    try:
        if flag == _REFERENCE:
            reference = _unpack_reference(payload)
            return Record(
                made_at_ms=reference.made_at_ms, record_id=reference.record_id, file=reference.name
            )
        answer = _unpack_answer(_decompress(payload) if flag == _ZSTD else payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadRecord("unreadable") from exc
    return Record(made_at_ms=answer.made_at_ms, record_id=answer.record_id, pieces=answer.pieces)


def _frame(payload: bytes, *, flag: int, digest: str) -> bytes:
    bound = _BOUND.pack(_MAGIC, VERSION, flag, bytes.fromhex(digest))
    checksum = zlib.crc32(payload, zlib.crc32(bound))
    return b"".join((bound, _CHECKSUM.pack(checksum), payload))


def _unframe(value: bytes, *, digest: str) -> tuple[int, memoryview]:
    """Return the flag and the payload, which is not copied. Raises BadRecord."""
    if value[:4] != _MAGIC or len(value) < _HEADER_BYTES:
        raise BadRecord("foreign")
    _, version, flag, owner = _BOUND.unpack_from(value)
    if version != VERSION:
        raise BadRecord("of another version")
    payload = memoryview(value)[_HEADER_BYTES:]
    [checksum] = _CHECKSUM.unpack_from(value, _BOUND.size)
    if zlib.crc32(payload, zlib.crc32(value[: _BOUND.size])) != checksum:
        raise BadRecord("damaged")
    if owner != bytes.fromhex(digest):
        raise BadRecord("of another key")
    if flag not in (_RAW, _ZSTD, _REFERENCE):
        raise BadRecord("of another version")
    return flag, payload


def _compress(payload: bytes) -> bytes | None:
    """Return the payload in less bytes, None if it does not save a tenth of them."""
    if len(payload) < _SMALLEST_BYTES:
        return None
    if len(payload) > _LARGE_BYTES:
        start = (len(payload) - _SAMPLE_BYTES) // 2
        sample = memoryview(payload)[start : start + _SAMPLE_BYTES]
        if len(_zstd.compress(sample)) > _WORTHWHILE_IF_LARGE * _SAMPLE_BYTES:
            return None
    packed = _zstd.compress(payload)
    return packed if len(packed) <= _WORTHWHILE * len(payload) else None


def _decompress(payload: memoryview) -> bytes:
    """Return the content of one frame. Raises BadRecord for more than LARGEST_BYTES too."""
    try:
        # What a frame says of its size is what is allocated, whatever bound is given.
        if get_frame_parameters(payload).content_size > LARGEST_BYTES:
            raise BadRecord("too large")
        return _zstd.decompress(payload, allow_extra_data=False)
    except ZstdError as exc:
        raise BadRecord("unreadable") from exc
