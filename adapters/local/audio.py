"""Audio files of any common kind, decoded by FFmpeg's libraries to what a model listens to."""

from __future__ import annotations

import io
from collections.abc import Iterator

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from numpy.typing import NDArray

from adapters.local.problems import Invalid, Malformed

# Formats that hold their sound themselves. FFmpeg also knows playlists, which name other files
# and addresses to open: those are never to be believed.
_FORMATS = "aac,aiff,amr,asf,au,avi,caf,flac,flv,matroska,webm,mov,mp3,mp4,mpegts,ogg,w64,wav"
_FULL_SCALE = 32768.0


def decode(data: bytes, *, rate: int, most_seconds: float) -> NDArray[np.float32]:
    """Return mono samples in -1..1 at `rate`. Raises Malformed or Invalid. Blocks."""
    most = int(most_seconds * rate)
    parts: list[NDArray[np.int16]] = []
    count = 0
    try:
        for part in _samples(data, rate):
            parts.append(part)
            count += len(part)
            if count > most:
                raise Invalid(f"the audio must not be longer than {most_seconds:g} seconds")
    except av.FFmpegError:
        raise Malformed("The audio cannot be decoded") from None
    if not count:
        raise Malformed("There is no sound in the audio")
    return np.concatenate(parts).astype(np.float32) / np.float32(_FULL_SCALE)


def _samples(data: bytes, rate: int) -> Iterator[NDArray[np.int16]]:
    resampler = AudioResampler(format="s16", layout="mono", rate=rate)
    with av.open(io.BytesIO(data), "r", options={"format_whitelist": _FORMATS}) as container:
        if not container.streams.audio:
            raise Malformed("There is no sound in the audio")
        for frame in container.decode(audio=0):
            frame.pts = None  # broken timestamps are no reason to refuse
            yield from _resampled(resampler, frame)
        yield from _resampled(resampler, None)


def _resampled(resampler: AudioResampler, frame: AudioFrame | None) -> Iterator[NDArray[np.int16]]:
    for resampled in resampler.resample(frame):
        yield resampled.to_ndarray()[0]
