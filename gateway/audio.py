"""Audio that came whole: what it is, what it holds, and the same in another format.

Formats are told by their first bytes; content types are often wrong.

All of it is CPU work: `gateway.threads` keeps it off the loop.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from gateway.containers import RATES, BadAudio, av_errors, frames_of, opened
from gateway.encoder import CONTENT_TYPES, Encoder

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame

__all__ = [
    "CONTENT_TYPES",
    "BadAudio",
    "Pcm",
    "decode",
    "encode",
    "measure_seconds",
    "passthrough",
    "resample",
    "sniff",
    "transcode",
]

_PIECE_SECONDS = 0.5  # decoded audio per piece: much fewer trips between threads than per frame
_SAMPLE_BYTES = 2
_MAGIC: tuple[tuple[str, re.Pattern[bytes]], ...] = (
    ("flac", re.compile(rb"fLaC")),
    ("wav", re.compile(rb"(RIFF|RF64)....WAVE", re.DOTALL)),
    ("opus", re.compile(rb"OggS.{22,64}OpusHead", re.DOTALL)),
    ("ogg", re.compile(rb"OggS")),
    ("m4a", re.compile(rb"....ftyp", re.DOTALL)),
    ("webm", re.compile(rb"\x1aE\xdf\xa3")),
    ("aac", re.compile(rb"\xff[\xf0\xf1\xf8\xf9]")),  # ADTS: the sync word with layer 0
    ("mp3", re.compile(rb"ID3|\xff[\xe2-\xe7\xf2-\xf7\xfa-\xff]")),
    ("json", re.compile(rb"\s*\{")),
)


@dataclass(frozen=True, slots=True)
class Pcm:
    """Samples in 16 bit, little-endian, the one or two channels interleaved; `rate` in Hz."""

    rate: int
    channels: int
    samples: bytes

    @property
    def frames(self) -> int:
        """The number of samples per channel."""
        return len(self.samples) // (_SAMPLE_BYTES * self.channels)

    @property
    def duration_seconds(self) -> float:
        return self.frames / self.rate


class _Floats(msgspec.Struct):
    """How text-to-speech pipelines answer in JSON: one list of samples per channel."""

    audio: list[Any]
    sampling_rate: int


def sniff(data: bytes) -> str | None:
    """Return the format that `data` begins as: a key of `CONTENT_TYPES`, or ogg, m4a, webm, json.

    Raw samples (`pcm`) cannot be told from anything else.
    """
    return next((name for name, magic in _MAGIC if magic.match(data)), None)


def passthrough(data: bytes, form: str) -> bytes | None:
    """Return `data` if it is in `form` already, None if it has to be transcoded."""
    return data if sniff(data) == form else None


def decode(
    data: bytes, *, limit_seconds: float, rate: int | None = None, channels: int | None = None
) -> Pcm:
    """Return what `data` holds, resampled to `rate` and `channels` if given.

    More than two channels are mixed down to two. Raises BadAudio for what cannot be read, holds
    nothing or lasts longer than allowed.
    """
    pieces = list(_pieces(data, limit_seconds=limit_seconds, rate=rate, channels=channels))
    return Pcm(pieces[0].rate, pieces[0].channels, b"".join(piece.samples for piece in pieces))


def encode(pcm: Pcm, form: str) -> bytes:
    """Return `pcm` as a whole file of `form`, its headers exact."""
    encoder = Encoder(form, rate=pcm.rate, channels=pcm.channels, live=False)
    encoder.feed(pcm.samples)
    return encoder.finish()


def transcode(data: bytes, form: str, *, limit_seconds: float) -> Iterator[bytes]:
    """Yield `data` in `form`, the first bytes before the last is decoded.

    What is in `form` already is yielded as it is. Raises BadAudio as `decode` does; if it is the
    rest of `data` that is broken, only after the first bytes.
    """
    if passthrough(data, form):
        yield data
        return
    encoder: Encoder | None = None
    for piece in _pieces(data, limit_seconds=limit_seconds):
        encoder = encoder or Encoder(form, rate=piece.rate, channels=piece.channels)
        if part := encoder.feed(piece.samples):
            yield part
    if encoder is not None and (part := encoder.finish()):
        yield part


def resample(data: bytes, form: str, *, rate: int, channels: int, limit_seconds: float) -> bytes:
    """Return `data` as a whole file of `form` at `rate` Hz, its headers exact.

    Only half a second of it is held decoded at a time. Raises BadAudio as `decode` does.
    """
    encoder = Encoder(form, rate=rate, channels=channels, live=False)
    for piece in _pieces(data, limit_seconds=limit_seconds, rate=rate, channels=channels):
        encoder.feed(piece.samples)
    return encoder.finish()


def measure_seconds(data: bytes) -> float:
    """Return how long `data` lasts by its packets, decoding none and trusting no header.

    Within a frame or two of the exact duration. Raises BadAudio.
    """
    form = sniff(data)
    if form == "json":
        answer, channels = _parse_json(data)
        return len(channels[0]) / answer.sampling_rate
    with opened(data, form) as container:
        stream = container.streams.audio[0]
        packets = container.demux(stream)
        durations = sum(packet.duration or 0 for packet in packets)
        seconds = float(durations * (stream.time_base or 0))
    if not seconds:
        raise BadAudio("the audio holds nothing")
    return seconds


def _pieces(
    data: bytes, *, limit_seconds: float, rate: int | None = None, channels: int | None = None
) -> Iterator[Pcm]:
    """Yield what `data` holds in pieces of about half a second, at least one."""
    form = sniff(data)
    source = _frames_of_json(data) if form == "json" else frames_of(data, form)
    seconds, held, shape = 0.0, bytearray(), (0, 0)
    for frame in _resampled(source, rate=rate, channels=channels):
        shape = frame.rate, frame.layout.nb_channels
        held += bytes(frame.planes[0])[: frame.samples * _SAMPLE_BYTES * shape[1]]
        seconds += frame.samples / frame.rate
        if seconds > limit_seconds:
            raise BadAudio(f"the audio lasts longer than {limit_seconds:g} seconds")
        if len(held) >= _PIECE_SECONDS * shape[0] * shape[1] * _SAMPLE_BYTES:
            yield Pcm(*shape, bytes(held))
            held.clear()
    if not seconds:
        raise BadAudio("the audio holds nothing")
    if held:
        yield Pcm(*shape, bytes(held))


def _resampled(
    frames: Iterator[AudioFrame], *, rate: int | None, channels: int | None
) -> Iterator[AudioFrame]:
    from av.audio.resampler import AudioResampler

    resampler: AudioResampler | None = None
    with av_errors():
        for frame in frames:
            if resampler is None:
                count = channels or min(2, frame.layout.nb_channels)
                resampler = AudioResampler(
                    format="s16", layout="mono" if count == 1 else "stereo", rate=rate or frame.rate
                )
            yield from resampler.resample(frame)
        if resampler is not None:
            yield from resampler.resample(None)


def _frames_of_json(data: bytes) -> Iterator[AudioFrame]:
    from av.audio.frame import AudioFrame

    answer, channels = _parse_json(data)
    mixed = array("f", bytes(4 * len(channels) * len(channels[0])))
    for index, channel in enumerate(channels):
        mixed[index :: len(channels)] = channel
    layout = "mono" if len(channels) == 1 else "stereo"
    frame = AudioFrame(format="flt", layout=layout, samples=len(channels[0]))
    frame.sample_rate = answer.sampling_rate
    frame.planes[0].update(mixed.tobytes())
    yield frame


def _parse_json(data: bytes) -> tuple[_Floats, list[array[float]]]:
    """Return the answer and its one or two channels, which are equally long and not empty."""
    try:
        answer = msgspec.json.decode(data, type=_Floats)
        rows = answer.audio if isinstance(answer.audio[0], list) else [answer.audio]
        channels = [array("f", row) for row in rows if isinstance(row, list)]
    except (msgspec.DecodeError, OverflowError, IndexError, TypeError) as error:
        raise BadAudio("the answer is no audio in JSON") from error
    lengths = {len(channel) for channel in channels}
    if len(channels) > 2 or len(lengths) != 1 or answer.sampling_rate not in RATES:
        raise BadAudio("the answer is no audio in JSON")
    if lengths == {0}:
        raise BadAudio("the audio holds nothing")
    return answer, channels
