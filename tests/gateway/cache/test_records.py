"""The value of a kept answer: it comes back as it was, or not at all."""

from __future__ import annotations

import os
import random
import struct
import tracemalloc
import zlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zstandard import ZstdCompressor

from gateway.cache import records
from gateway.cache.records import BadRecord, Record, decode, pack, seal, seal_reference
from gateway.tapes import Piece

DIGEST, OTHER = "a1" * 32, "a1" * 31 + "a2"
RAW, ZSTD = 0, 1

contents = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
pieces = st.builds(Piece, contents, st.booleans(), st.integers(0, 2**40))


def encoded(*contents: Any) -> bytes:
    made = [Piece(content, ms=at) for at, content in enumerate(contents)]
    return seal(pack(made, made_at_ms=1_800_000_000_000, record_id="r1"), digest=DIGEST)


def framed(payload: bytes, *, flag: int, version: int = 1, magic: bytes = b"DrgA") -> bytes:
    """Return a value whose checksum is right, whatever else is wrong."""
    head = struct.pack(">4sBB32s", magic, version, flag, bytes.fromhex(DIGEST))
    return head + struct.pack(">I", zlib.crc32(payload, zlib.crc32(head))) + payload


def reason(value: bytes, digest: str = DIGEST) -> str:
    with pytest.raises(BadRecord) as caught:
        decode(value, digest=digest)
    return caught.value.reason


@given(st.lists(pieces), st.integers(0, 2**50), st.text(), st.binary(min_size=32, max_size=32))
def test_pieces_come_back_as_they_were(
    made: list[Piece], made_at_ms: int, record_id: str, digest: bytes
) -> None:
    value = seal(pack(made, made_at_ms=made_at_ms, record_id=record_id), digest=digest.hex())
    record = decode(value, digest=digest.hex())
    assert record == Record(made_at_ms=made_at_ms, record_id=record_id, pieces=made)


@pytest.mark.parametrize("size_bytes", [0, 1, 255, 256, 300_000, 600_000, 2_700_000])
@pytest.mark.parametrize("kind", ["text", "noise"])
def test_any_size_comes_back(size_bytes: int, kind: str) -> None:
    content = os.urandom(size_bytes) if kind == "noise" else b"bread " * (size_bytes // 6)
    record = decode(encoded(content), digest=DIGEST)
    assert [piece.content for piece in record.pieces] == [content]


def test_a_file_stands_for_an_answer() -> None:
    value = seal_reference("ab" * 32, digest=DIGEST, made_at_ms=5, record_id="r")
    assert decode(value, digest=DIGEST) == Record(made_at_ms=5, record_id="r", file="ab" * 32)
    assert len(value) < 200


def test_text_is_compressed_noise_is_not_and_what_is_small_neither() -> None:
    assert encoded("x" * 100)[5] == RAW
    assert encoded("bread and butter " * 20)[5] == ZSTD
    assert encoded(os.urandom(10_000))[5] == RAW
    assert encoded(os.urandom(1_000_000))[5] == RAW
    assert len(encoded("bread and butter " * 1000)) < 200


def test_noise_that_is_large_is_told_by_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    compressor, sizes = ZstdCompressor(level=1), []

    def compress(data: bytes) -> bytes:
        sizes.append(len(data))
        return compressor.compress(data)

    monkeypatch.setattr(records._zstd, "compress", compress)
    encoded(os.urandom(1_000_000))
    assert sizes == [64 * 1024]


@pytest.mark.parametrize("content", ["short", "bread and butter " * 20])
def test_no_flipped_bit_goes_unseen(content: str) -> None:
    value = encoded(content)
    for at in range(len(value) * 8):
        flipped = bytearray(value)
        flipped[at // 8] ^= 1 << at % 8
        assert reason(bytes(flipped))


@pytest.mark.parametrize("content", ["short", "bread and butter " * 20])
def test_no_part_of_a_value_passes_for_the_whole(content: str) -> None:
    value = encoded(content)
    for length in range(len(value)):
        assert reason(value[:length])
    assert reason(value + b"\0") == "damaged"
    assert reason(value + value) == "damaged"


@given(st.binary(max_size=200))
def test_foreign_values_are_told(value: bytes) -> None:
    assert reason(value) == "foreign"


def test_a_value_is_good_for_its_own_key_only() -> None:
    assert reason(encoded("x"), OTHER) == "of another key"
    reference = seal_reference("ab" * 32, digest=DIGEST, made_at_ms=5, record_id="r")
    assert reason(reference, OTHER) == "of another key"


def test_other_versions_are_told() -> None:
    payload = msgspec.msgpack.encode([1, "r", []])
    assert decode(framed(payload, flag=RAW), digest=DIGEST).record_id == "r"
    assert reason(framed(payload, flag=RAW, version=2)) == "of another version"
    assert reason(framed(payload, flag=RAW, version=0)) == "of another version"
    assert reason(framed(payload, flag=3)) == "of another version"
    assert reason(framed(payload, flag=RAW, magic=b"DrgB")) == "foreign"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([1, "r"]),
        msgspec.msgpack.encode([1, "r", [], 4]),
        msgspec.msgpack.encode(["1", "r", []]),
        msgspec.msgpack.encode([1, "r", "pieces"]),
        msgspec.msgpack.encode([1, "r", [["content", "yes"]]]),
        msgspec.msgpack.encode({"made_at_ms": 1, "record_id": "r", "pieces": []}),
        msgspec.msgpack.encode([1, "r", []]) + b"\0",
        b"\x93\x01\xa1r\xdd\xff\xff\xff\xff",
        b"\x93\x01\xa1r\x91" + b"\x91" * 100_000,
        b"\x93\x01\xa1r\x91\x91\xa1\xff",
    ],
)
@pytest.mark.parametrize("is_packed", [False, True])
def test_payloads_of_another_form_are_told(payload: bytes, is_packed: bool) -> None:
    packed = ZstdCompressor().compress(payload) if is_packed else payload
    assert reason(framed(packed, flag=ZSTD if is_packed else RAW)) == "unreadable"


def test_a_reference_is_no_answer_nor_an_answer_a_reference() -> None:
    answer = msgspec.msgpack.encode([1, "r", []])
    assert reason(framed(answer, flag=2)) == "unreadable"
    assert reason(framed(msgspec.msgpack.encode([1, "r", "name"]), flag=RAW)) == "unreadable"


def test_a_value_cannot_expand_without_bound() -> None:
    bomb = ZstdCompressor().compress(bytes(records.LARGEST_BYTES + 1))
    silent = ZstdCompressor(write_content_size=False).compress(bytes(1_000_000))
    lying = bytearray(ZstdCompressor().compress(bytes(1000)))
    lying[5] ^= 0x80  # the size in the frame's head
    tracemalloc.start()
    try:
        assert reason(framed(bomb, flag=ZSTD)) == "too large"
        assert reason(framed(silent, flag=ZSTD)) == "too large"
        assert reason(framed(bytes(lying), flag=ZSTD)) == "unreadable"
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_frames_after_the_first_are_told() -> None:
    frame = ZstdCompressor().compress(msgspec.msgpack.encode([1, "r", []]))
    assert decode(framed(frame, flag=ZSTD), digest=DIGEST).record_id == "r"
    assert reason(framed(frame + frame, flag=ZSTD)) == "unreadable"


def test_too_much_for_one_value_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LARGEST_BYTES", 1000)
    with pytest.raises(ValueError, match="at most 1000"):
        encoded(b"x" * 1000)


def test_an_image_is_copied_once_when_it_is_decoded() -> None:
    image = random.Random(1).randbytes(2_700_000)
    value = encoded(image)
    tracemalloc.start()
    try:
        assert decode(value, digest=DIGEST).pieces[0].content == image
        assert tracemalloc.get_traced_memory()[1] < len(image) + 50_000
    finally:
        tracemalloc.stop()
