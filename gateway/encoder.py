"""PCM in, one of OpenAI's audio formats out, each part as soon as it is encoded.

Encoding is CPU work: call it off the loop. Importing PyAV takes 23 MiB, so it is imported by the
first encoder and not with this module.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, cast

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.audio.stream import AudioStream
    from av.container import OutputContainer

Sample = Literal["s16", "flt"]  # little-endian, channels interleaved

_PCM_RATE = 24_000  # OpenAI's `pcm`: 24 kHz, 16 bit, mono
_UNKNOWN_SIZE = 0xFFFFFFFF
_WIDTHS: dict[Sample, int] = {"s16": 2, "flt": 4}
_LAYOUTS = {1: "mono", 2: "stereo"}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    """A wire format; without a `codec` it is raw samples."""

    content_type: str
    container: str = ""
    codec: str = ""
    rates: tuple[int, ...] = ()  # the only ones used, the default first; empty: any
    bit_rate: int | None = None  # per channel
    options: dict[str, str] = field(default_factory=dict)


# MP3 and ADTS cannot say where a stream of unknown length ends inside its last frame, ADTS not
# even where it begins. At 44.1 kHz and more that is up to 43 ms of silence; at 24 kHz it is 86.
_FORMATS: dict[str, _Format] = {
    "mp3": _Format(
        content_type="audio/mpeg",
        container="mp3",
        codec="libmp3lame",
        rates=(48_000, 44_100),
        bit_rate=64_000,
        options={"id3v2_version": "0"},
    ),
    "opus": _Format(
        content_type="audio/ogg",
        container="ogg",
        codec="libopus",
        rates=(48_000,),
        bit_rate=48_000,
        options={"page_duration": "200000"},  # µs; a page of the default second would wait for it
    ),
    "aac": _Format(
        content_type="audio/aac", container="adts", codec="aac", rates=(48_000,), bit_rate=64_000
    ),
    "flac": _Format(content_type="audio/flac", container="flac", codec="flac"),
    "wav": _Format(content_type="audio/wav"),
    "pcm": _Format(content_type="audio/pcm", rates=(_PCM_RATE,)),
}
CONTENT_TYPES = {name: wire.content_type for name, wire in _FORMATS.items()}


class Encoder:
    """Encodes one stream of PCM to `form`, a key of `CONTENT_TYPES`.

    `rate` is in Hz; `channels` is 1 or 2 (`pcm` is always mono). With `live`, `feed` returns what
    is encoded so far, and no header tells the length, except WAV's when `frames` (samples per
    channel) is given. Without, `finish` returns everything, with exact headers.
    """

    def __init__(
        self,
        form: str,
        *,
        rate: int,
        channels: int = 1,
        sample: Sample = "s16",
        frames: int | None = None,
        live: bool = True,
    ) -> None:
        wire = _FORMATS[form]
        self._rate, self._layout, self._sample = rate, _LAYOUTS[channels], sample
        self._frame_bytes = channels * _WIDTHS[sample]
        self._rest = b""
        self._frames = 0
        self._live = live
        self._track: _Raw | _Coded
        if wire.codec:
            self._track = _Coded(wire, rate=rate, channels=channels)
        elif form == "wav":
            self._track = _Wav(rate=rate, channels=channels, frames=frames)
        else:
            self._track = _Raw(rate=_PCM_RATE, channels=1)

    @property
    def duration_seconds(self) -> float:
        """How long what was fed lasts."""
        return self._frames / self._rate

    def feed(self, pcm: bytes) -> bytes:
        """Take PCM cut anywhere; return the bytes that are ready, often none."""
        pcm = self._rest + pcm
        size = len(pcm) - len(pcm) % self._frame_bytes
        self._rest = pcm[size:]
        if size:
            self._frames += size // self._frame_bytes
            self._track.write(self._frame(pcm[:size]))
        return self._track.take() if self._live else b""

    def finish(self) -> bytes:
        """Return the rest. A last sample that is not whole is dropped."""
        self._track.end()
        return self._track.take()

    def _frame(self, pcm: bytes) -> AudioFrame:
        from av.audio.frame import AudioFrame

        frame = AudioFrame(
            format=self._sample, layout=self._layout, samples=len(pcm) // self._frame_bytes
        )
        frame.sample_rate = self._rate
        frame.planes[0].update(pcm)
        return frame


class _Raw:
    """Samples as 16 bit, without a header."""

    def __init__(self, *, rate: int, channels: int) -> None:
        from av.audio.resampler import AudioResampler

        self._frame_bytes = 2 * channels
        self._resampler = AudioResampler(format="s16", layout=_LAYOUTS[channels], rate=rate)
        self._ready = bytearray()

    def write(self, frame: AudioFrame | None) -> None:
        for part in self._resampler.resample(frame):
            self._ready += bytes(part.planes[0])[: part.samples * self._frame_bytes]

    def end(self) -> None:
        self.write(None)

    def take(self) -> bytes:
        taken = bytes(self._ready)
        self._ready.clear()
        return taken


class _Wav(_Raw):
    """Samples as 16 bit under a RIFF header, whose sizes are 0xFFFFFFFF while they are unknown."""

    def __init__(self, *, rate: int, channels: int, frames: int | None) -> None:
        super().__init__(rate=rate, channels=channels)
        self._shape = rate, channels
        self._is_begun = False
        self._frames = frames

    def end(self) -> None:
        super().end()
        if not self._is_begun and self._frames is None:
            self._frames = len(self._ready) // self._frame_bytes

    def take(self) -> bytes:
        header = b"" if self._is_begun else self._header()
        self._is_begun = True
        return header + super().take()

    def _header(self) -> bytes:
        size = None if self._frames is None else self._frames * self._frame_bytes
        fits = size is not None and size <= _UNKNOWN_SIZE - 36
        riff, data = (size + 36, size) if fits and size is not None else (_UNKNOWN_SIZE,) * 2
        rate, channels = self._shape
        return struct.pack(
            "<4sI4s4sIHHIIHH4sI",
            *(b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, channels),
            *(rate, rate * self._frame_bytes, self._frame_bytes, 16, b"data", data),
        )


class _Coded:
    """A codec's packets in their container."""

    def __init__(self, wire: _Format, *, rate: int, channels: int) -> None:
        import av

        self._sink = _Sink()
        self._container: OutputContainer = av.open(
            self._sink, "w", format=wire.container, options=wire.options
        )
        used = rate if not wire.rates or rate in wire.rates else wire.rates[0]
        self._stream = cast(
            "AudioStream",
            self._container.add_stream(wire.codec, rate=used, layout=_LAYOUTS[channels]),
        )
        if wire.bit_rate:
            self._stream.bit_rate = wire.bit_rate * channels
        self._container.start_encoding()

    def write(self, frame: AudioFrame | None) -> None:
        for packet in self._stream.encode(frame):
            self._container.mux(packet)

    def end(self) -> None:
        self.write(None)
        self._container.close()

    def take(self) -> bytes:
        return self._sink.take()


class _Sink:
    """A file that forgets what was taken from it.

    Muxers write a header at once and mend it at the end, if they may seek. Told that they may
    not, MP3's leaves out the header that names the encoder's delay, and players would play 46 ms
    of silence. Here what is mended too late is lost, and the header as it was first is good.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._position = 0
        self._kept = bytearray()

    def write(self, data: bytes) -> int:
        start = self._position - self._taken
        self._position += len(data)
        fresh = bytes(data)[max(0, -start) :]
        start = max(0, start)
        self._kept[start : start + len(fresh)] = fresh
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        origins = (0, self._position, self._taken + len(self._kept))
        self._position = origins[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def take(self) -> bytes:
        taken = bytes(self._kept)
        self._taken += len(taken)
        self._kept.clear()
        return taken
