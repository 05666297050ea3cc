"""Spoken pieces as they came from an upstream, made into one file of the format that was asked for.

All of it is CPU work and blocks: call it off the loop.
"""

from __future__ import annotations

from adapters.base import Media
from gateway.audio import decode, encode, measure_seconds, passthrough
from gateway.encoder import Encoder

_LONGEST_SECONDS = 1200.0  # 4,096 characters at a quarter of the speed
_PCM_BYTES_PER_SECOND = 48_000  # OpenAI's `pcm`: 24 kHz, 16 bit, mono


class Recording:
    """One file of `form` out of `pieces`, each part as soon as it is encoded.

    A single piece that is in `form` already stays as it is. Of several, the first settles the
    sampling rate and the channels of all.
    """

    def __init__(self, form: str, *, pieces: int) -> None:
        self._form = form
        self._pieces = pieces
        self._missing = pieces
        self._seconds = 0.0
        self._shape: tuple[int, int] | None = None
        self._encoder: Encoder | None = None

    @property
    def duration_ms(self) -> int:
        """How long what was added lasts."""
        return round(self._seconds * 1000)

    @property
    def is_whole(self) -> bool:
        """Whether all pieces were added."""
        return self._missing == 0

    def add(self, media: Media) -> bytes:
        """Return the bytes that are ready with this piece, maybe none; all that are left with the
        last. Raises BadAudio.
        """
        self._missing -= 1
        if self._pieces == 1:
            data, self._seconds = _convert(media, self._form)
            return data
        return self._append(media)

    def _append(self, media: Media) -> bytes:
        rate, channels = self._shape or (None, None)
        pcm = decode(media.data, limit_seconds=_LONGEST_SECONDS, rate=rate, channels=channels)
        if self._encoder is None:
            self._shape = pcm.rate, pcm.channels
            self._encoder = Encoder(self._form, rate=pcm.rate, channels=pcm.channels)
        data = self._encoder.feed(pcm.samples)
        self._seconds = self._encoder.duration_seconds
        return data + self._encoder.finish() if self.is_whole else data


def _convert(media: Media, form: str) -> tuple[bytes, float]:
    """Return a whole file of `form`, and how many seconds it lasts. Raises BadAudio."""
    if form == "pcm" and media.type.partition(";")[0].strip().lower() == "audio/pcm":
        return media.data, len(media.data) / _PCM_BYTES_PER_SECOND
    if data := passthrough(media.data, form):
        return data, measure_seconds(data)
    pcm = decode(media.data, limit_seconds=_LONGEST_SECONDS)
    return encode(pcm, form), pcm.duration_seconds
