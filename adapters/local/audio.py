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
# Only for telling the shape of the sound: left free, FFmpeg decodes a frame of each video and
# cover beside it, which a few bytes can make gigabytes.
_DECODERS = (
    "aac,aac_latm,ac3,alac,amrnb,amrwb,eac3,flac,libopus,libspeex,libvorbis,mp2,mp2float,mp3,"
    "mp3float,opus,speex,vorbis,wmav1,wmav2"
)
_RATES = range(4_000, 384_001)  # Hz; at less a few samples would become millions
_MOST_FRAME_SAMPLES = 2**20
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
    options = {
        "format_whitelist": _FORMATS,
        "codec_whitelist": _DECODERS,
        "advanced_editlist": "0",  # MP4: copies the table of all samples for every edit of a list
    }
    with av.open(io.BytesIO(data), "r", options=options) as container:
        if not container.streams.audio:
            raise Malformed("There is no sound in the audio")
        for frame in container.decode(audio=0):
            if frame.sample_rate not in _RATES or frame.samples > _MOST_FRAME_SAMPLES:
                raise Malformed("The audio's sampling rate or its packets are out of range")
            frame.pts = None  # broken timestamps are no reason to refuse
            yield from _resampled(resampler, frame)
        yield from _resampled(resampler, None)


def _resampled(resampler: AudioResampler, frame: AudioFrame | None) -> Iterator[NDArray[np.int16]]:
    for resampled in resampler.resample(frame):
        yield resampled.to_ndarray()[0]
