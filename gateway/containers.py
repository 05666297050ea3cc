"""Sound files from anywhere, opened by FFmpeg with as little of it as they need.

The bytes may be made to harm: every container has its own parser, so that none is guessed (some
follow playlists to files and addresses); only decoders of sound are opened, as FFmpeg would decode
a frame of each video or cover beside it; and what a frame may grow to by resampling is bounded.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer

RATES = range(4_000, 384_001)  # Hz

_MOST_FRAME_SAMPLES = 2**20  # codecs make up to 65,536; PCM's packets may be the whole file
_DEMUXERS = {
    "flac": "flac",
    "wav": "wav",
    "opus": "ogg",
    "ogg": "ogg",
    "m4a": "mov",
    "webm": "matroska",
    "aac": "aac",
    "mp3": "mp3",
}
_DECODERS = (  # those that FFmpeg needs to tell the shape of the sound
    "aac,aac_latm,ac3,alac,eac3,flac,libopus,libspeex,libvorbis,mp2,mp2float,mp3,mp3float,"
    "opus,speex,vorbis"
)
_OPTIONS = {
    "advanced_editlist": "0",  # MP4: copies the table of all samples for every edit of a list
    "codec_whitelist": _DECODERS,
}
# The number of samples that an MP4's table or fragment claims. Where they are all of one size the
# table is those few bytes, of which FFmpeg makes 35 for each sample.
_CLAIMS = re.compile(rb"(?=stsz.{8}(.{4})|trun.{4}(.{4}))", re.DOTALL)
_COMPRESSED_HEAD = re.compile(rb"cmov.{4}dcom", re.DOTALL)  # its claims could not be read


class BadAudio(Exception):
    """These bytes are no audio that can be used. `message` holds none of them."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@contextmanager
def opened(data: bytes, form: str | None) -> Iterator[InputContainer]:
    """Open `data` with the parser of `form`; it has an audio stream. Raises BadAudio."""
    if form not in _DEMUXERS:
        raise BadAudio("the audio is in no known format")
    if form == "m4a":
        _check_claims(data)
    import av

    with av_errors():
        container = av.open(
            io.BytesIO(data),
            "r",
            format=_DEMUXERS[form],
            options=dict(_OPTIONS),
            metadata_errors="replace",
        )
        with closing(container):
            if not container.streams.audio:
                raise BadAudio("there is no audio track")
            yield container


def frames_of(data: bytes, form: str | None) -> Iterator[AudioFrame]:
    """Yield the first audio stream's frames, each fit to be resampled. Raises BadAudio."""
    with opened(data, form) as container:
        for frame in container.decode(audio=0):
            if frame.sample_rate not in RATES:
                raise BadAudio(f"the audio's sampling rate is {frame.sample_rate} Hz")
            if frame.samples > _MOST_FRAME_SAMPLES:
                raise BadAudio("the audio is in packets that are too long")
            yield frame


def _check_claims(data: bytes) -> None:
    """Raise BadAudio for an MP4 that claims more samples than it can hold."""
    claims = (found[1] or found[2] for found in _CLAIMS.finditer(data))
    claimed = sum(int.from_bytes(claim, "big") for claim in claims)
    if claimed > len(data) or _COMPRESSED_HEAD.search(data):
        raise BadAudio("the audio's table of samples cannot be used")


@contextmanager
def av_errors() -> Iterator[None]:
    """Raise BadAudio for what FFmpeg raises."""
    from av.error import FFmpegError

    try:
        yield
    except (FFmpegError, ValueError, EOFError) as error:
        raise BadAudio("the audio cannot be decoded") from error
