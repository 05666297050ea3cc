"""Audio in every format of OpenAI's: it lasts and sounds as what was put in."""

from __future__ import annotations

import io
import itertools
import json
import math
import struct
import subprocess
import sys
import wave
from array import array
from functools import cache
from pathlib import Path

import av
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import audio
from gateway.audio import CONTENT_TYPES, BadAudio, Pcm, decode, encode, sniff, transcode
from gateway.containers import opened
from gateway.encoder import Encoder

pytestmark = pytest.mark.anyio

FORMS = list(CONTENT_TYPES)
FILES = [form for form in FORMS if form != "pcm"]
ALLOWED_SECONDS = 0.05


@cache
def tone(seconds: float, *, rate: int = 24_000, channels: int = 1, hertz: float = 440.0) -> Pcm:
    step = 2 * math.pi * hertz / rate
    samples = (int(8000 * math.sin(step * index)) for index in range(round(seconds * rate)))
    pcm = array("h", (sample for sample in samples for _ in range(channels)))
    return Pcm(rate, channels, pcm.tobytes())


def as_pcm(data: bytes, form: str) -> Pcm:
    return Pcm(24_000, 1, data) if form == "pcm" else decode(data, limit_seconds=100)


def hertz(pcm: Pcm) -> float:
    """Return a tone's pitch, from where its first channel crosses zero."""
    samples = array("h", pcm.samples)[:: pcm.channels]
    middle = samples[len(samples) // 4 : 3 * len(samples) // 4]
    crossings = sum(a < 0 <= b for a, b in itertools.pairwise(middle))
    return crossings * pcm.rate / len(middle)


def live(pcm: Pcm, form: str, *, step: int = 4_800) -> list[bytes]:
    encoder = Encoder(form, rate=pcm.rate, channels=pcm.channels)
    starts = range(0, len(pcm.samples), step)
    return [*(encoder.feed(pcm.samples[at : at + step]) for at in starts), encoder.finish()]


@pytest.mark.parametrize("wanted", FORMS)
@pytest.mark.parametrize("given", FILES)
def test_transcoding_keeps_the_duration_and_the_pitch(given, wanted):
    source = encode(tone(1.2345), given)
    before = decode(source, limit_seconds=100)
    after = as_pcm(b"".join(transcode(source, wanted, limit_seconds=100)), wanted)
    assert abs(after.duration_seconds - before.duration_seconds) <= ALLOWED_SECONDS
    assert hertz(after) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000])
def test_a_live_stream_lasts_as_long_as_what_was_fed(form, rate):
    for frames in range(rate // 2, rate // 2 + 2400, 797):
        pcm = tone(frames / rate, rate=rate)
        after = as_pcm(b"".join(live(pcm, form)), form)
        assert abs(after.duration_seconds - pcm.duration_seconds) <= ALLOWED_SECONDS


@pytest.mark.parametrize("form", ["mp3", "flac", "wav", "pcm"])
def test_a_whole_file_lasts_exactly_as_long_as_its_source(form):
    pcm = tone(1.2345)
    assert as_pcm(encode(pcm, form), form).duration_seconds == pytest.approx(1.2345, abs=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_bytes_leave_before_the_last_samples_are_in(form):
    parts = live(tone(3), form)
    early = sum(map(len, parts[: len(parts) // 2]))
    assert early > 0.3 * sum(map(len, parts))


@pytest.mark.parametrize("form", FILES)
def test_two_channels_stay_two(form):
    after = decode(encode(tone(0.5, rate=44_100, channels=2), form), limit_seconds=1)
    assert after.channels == 2


def test_pcm_is_24_khz_16_bit_mono():
    assert len(encode(tone(0.5, rate=44_100, channels=2), "pcm")) == pytest.approx(24_000, abs=4)


@pytest.mark.parametrize("form", FILES)
def test_formats_are_told_by_their_first_bytes(form):
    assert sniff(encode(tone(0.3), form)) == form
    assert sniff(b"".join(live(tone(0.3), form))) == form


def test_other_containers_are_told_and_decoded():
    for container, codec, form in (("ipod", "aac", "m4a"), ("webm", "libopus", "webm")):
        target = io.BytesIO()
        with av.open(target, "w", format=container) as output:
            stream = output.add_stream(codec, rate=48_000, layout="mono")
            frame = av.AudioFrame(format="s16", layout="mono", samples=48_000)
            frame.sample_rate = 48_000
            frame.planes[0].update(tone(1, rate=48_000).samples)
            output.mux(stream.encode(frame))
            output.mux(stream.encode(None))
        assert sniff(target.getvalue()) == form
        after = decode(target.getvalue(), limit_seconds=10)
        assert after.duration_seconds == pytest.approx(1, abs=ALLOWED_SECONDS)
        assert hertz(after) == pytest.approx(440, abs=3)


@pytest.mark.parametrize("form", FILES)
def test_what_has_the_wanted_format_is_kept_byte_by_byte(form):
    source = encode(tone(0.2), form)
    assert audio.passthrough(source, form) is source
    assert list(transcode(source, form, limit_seconds=100)) == [source]
    assert audio.passthrough(source, "flac" if form != "flac" else "wav") is None


def test_a_known_length_is_written_into_a_live_wav():
    pcm = tone(0.5)
    encoder = Encoder("wav", rate=24_000, frames=pcm.frames)
    head = encoder.feed(pcm.samples[:2000])
    data = head + encoder.feed(pcm.samples[2000:]) + encoder.finish()
    assert struct.unpack_from("<I", head, 4) == (len(data) - 8,)
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnframes(), file.getframerate(), file.getnchannels()) == (12_000, 24_000, 1)
        assert file.readframes(12_000) == pcm.samples


def test_an_unknown_length_is_marked_as_unknown():
    head = Encoder("wav", rate=24_000).feed(b"\1\2")
    assert head[4:8] == head[40:44] == b"\xff\xff\xff\xff"
    assert head[44:] == b"\1\2"


@given(cuts=st.lists(st.integers(0, 4000), max_size=8))
@settings(max_examples=20, deadline=None)
def test_samples_may_be_cut_anywhere(cuts):
    pcm = tone(0.05, channels=2).samples[:4000]
    encoder = Encoder("wav", rate=24_000, channels=2)
    edges = [0, *sorted(cuts), len(pcm)]
    parts = [encoder.feed(pcm[a:b]) for a, b in itertools.pairwise(edges)]
    assert (b"".join(parts) + encoder.finish())[44:] == pcm


def test_floats_are_clipped_and_not_wrapped():
    encoder = Encoder("wav", rate=24_000, sample="flt")
    data = encoder.feed(array("f", [0.0, 0.5, 2.0, -2.0]).tobytes()) + encoder.finish()
    assert array("h", data[44:]).tolist() == [0, 16384, 32767, -32768]


def test_the_fed_duration_is_known():
    encoder = Encoder("mp3", rate=16_000, channels=2)
    encoder.feed(bytes(16_000 * 4))
    encoder.feed(bytes(8_000 * 4))
    assert encoder.duration_seconds == 1.5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("frames", [0, 1, 100])
def test_next_to_nothing_is_encoded_too(form, frames):
    encoder = Encoder(form, rate=24_000)
    parts = [encoder.feed(bytes(2 * frames)), encoder.finish()]
    assert b"".join(parts) or (form, frames) in {("pcm", 0), ("aac", 0), ("aac", 1)}


def _answer(audio: object, rate: object = 24_000) -> bytes:
    return json.dumps({"audio": audio, "sampling_rate": rate}).encode()


def test_a_pipelines_json_is_audio():
    wave_form = [math.sin(index / 10) / 2 for index in range(24_000)]
    for found in ([wave_form], wave_form):
        pcm = decode(_answer(found), limit_seconds=10)
        assert (pcm.rate, pcm.channels, pcm.frames) == (24_000, 1, 24_000)
        assert array("h", pcm.samples)[15] == pytest.approx(wave_form[15] * 32767, abs=2)
    assert audio.measure_seconds(_answer([wave_form])) == 1.0


def test_a_pipelines_two_channels_are_interleaved():
    pcm = decode(_answer([[0.5, 0.5], [-0.5, -0.5]]), limit_seconds=10)
    assert array("h", pcm.samples).tolist() == [16384, -16384] * 2


@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"{}", b'{"audio": [[0.1]]}', _answer([]), _answer([[]]), _answer([["a"]])),
        *(_answer([[0.1], [0.1, 0.2]]), _answer([[0.1]] * 3), _answer([[0.1]], 0)),
        *(_answer([[0.1]], -1), _answer([[0.1]], "24000"), _answer([[[0.1]]]), _answer([None])),
    ],
)
def test_other_json_is_no_audio(body):
    with pytest.raises(BadAudio):
        decode(body, limit_seconds=10)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"fLaC", b"RIFF\0\0\0\0WAVE", b"OggS", b"ID3", b"\xff\xfb\x90\0" * 20),
        *(b"\x1aE\xdf\xa3", b"\0\0\0\x20ftypM4A ", b"\x89PNG\r\n\x1a\n", b"OggS" + bytes(200)),
        encode(Pcm(24_000, 1, b""), "wav"),
        encode(Pcm(24_000, 1, b""), "mp3"),
    ],
)
def test_what_is_no_audio_is_refused(body):
    with pytest.raises(BadAudio):
        decode(body, limit_seconds=10)
    with pytest.raises(BadAudio):
        audio.measure_seconds(body)


def test_playlists_are_not_followed(tmp_path):
    (tmp_path / "secret.wav").write_bytes(encode(tone(0.2), "wav"))
    for playlist in (
        f"ffconcat version 1.0\nfile '{tmp_path}/secret.wav'\n",
        f"#EXTM3U\n#EXTINF:1,\n{tmp_path}/secret.wav\n#EXT-X-ENDLIST\n",
    ):
        with pytest.raises(BadAudio, match="no known format"):
            decode(playlist.encode(), limit_seconds=10)


def matroska(samples: int, *, rate: int) -> bytes:
    """Return silence of one byte per sample, all of it in one packet."""
    target = io.BytesIO()
    with av.open(target, "w", format="matroska") as sink:
        stream = sink.add_stream("pcm_u8", rate=rate, layout="mono")
        frame = av.AudioFrame(format="u8", layout="mono", samples=samples)
        frame.sample_rate = rate
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        sink.mux(stream.encode(frame))
    return target.getvalue()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (matroska(600, rate=1), "sampling rate is 1 Hz"),
        (matroska(2**20 + 1, rate=48_000), "packets that are too long"),
    ],
)
def test_what_resampling_would_blow_up_is_refused_before(data, why):
    with pytest.raises(BadAudio, match=why):
        audio.resample(data, "flac", rate=16_000, channels=1, limit_seconds=7200)


def box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), name) + body


def mp4(samples: int, *, claimed: int, edits: int = 0) -> bytes:
    """Return unsigned bytes at 8 kHz, two ticks each, that are heard once or in every edit."""
    ticks = struct.pack(">III", 8_000, 2 * samples, 0)
    kind = box(b"raw ", struct.pack(">6xH8xHHHHI", 1, 1, 8, 0, 0, 8_000 << 16))
    table = box(
        b"stbl",
        box(b"stsd", struct.pack(">II", 0, 1), kind),
        box(b"stts", struct.pack(">IIII", 0, 1, samples, 2)),
        box(b"stsc", struct.pack(">IIIII", 0, 1, 1, samples, 1)),
        box(b"stsz", struct.pack(">III", 0, 1, claimed)),
        box(b"stco", struct.pack(">III", 0, 1, 28)),
    )
    media = box(
        b"mdia",
        box(b"mdhd", bytes(12), ticks),
        box(b"hdlr", bytes(8), b"soun", bytes(13)),
        box(b"minf", box(b"smhd", bytes(8)), table),
    )
    edit = struct.pack(">IIHH", 2 * samples, 0, 1, 0)
    edited = box(b"edts", box(b"elst", struct.pack(">II", 0, edits), edit * edits))
    track = box(b"trak", box(b"tkhd", struct.pack(">IIII68x", 0, 0, 0, 1)), edited, media)
    head = box(b"moov", box(b"mvhd", bytes(12), ticks, bytes(76)), track)
    return box(b"ftyp", b"M4A \0\0\0\0isom") + box(b"mdat", bytes(samples)) + head


def test_an_mp4_cannot_claim_more_samples_than_it_holds():
    assert audio.measure_seconds(mp4(500, claimed=500)) == pytest.approx(0.125, abs=0.07)
    for data in (
        mp4(500, claimed=10_000),
        mp4(500, claimed=500) + box(b"moof", box(b"trun", struct.pack(">II", 0, 10_000))),
        mp4(500, claimed=500) + box(b"cmov", box(b"dcom", b"zlib")),
    ):
        with pytest.raises(BadAudio, match="table of samples"):
            audio.measure_seconds(data)


def test_an_mp4_is_not_multiplied_by_its_edits():
    once = audio.measure_seconds(mp4(500, claimed=500, edits=1))
    assert audio.measure_seconds(mp4(500, claimed=500, edits=100)) == pytest.approx(once, abs=0.1)


def test_a_picture_beside_the_sound_is_not_decoded():
    target = io.BytesIO()
    with av.open(target, "w", format="mov") as sink:
        picture, sound = sink.add_stream("png", rate=1), sink.add_stream("aac", rate=24_000)
        picture.width, picture.height, picture.pix_fmt = 640, 480, "gray"
        sink.mux(picture.encode(av.VideoFrame(640, 480, "gray")))
        samples = av.AudioFrame(format="fltp", layout="stereo", samples=1024)
        samples.sample_rate = 24_000
        for plane in samples.planes:
            plane.update(bytes(plane.buffer_size))
        sink.mux(sound.encode(samples))
        sink.mux(sound.encode(None))
    with opened(target.getvalue(), "m4a") as container:
        # FFmpeg learns the form of PNG's pixels only by decoding one.
        assert container.streams.video[0].format is None
    assert decode(target.getvalue(), limit_seconds=1).rate == 24_000


@pytest.mark.parametrize("form", FILES)
def test_audio_over_the_limit_is_not_decoded_to_its_end(form):
    source = encode(tone(3), form)
    with pytest.raises(BadAudio, match="longer than 2 seconds"):
        decode(source, limit_seconds=2)


@pytest.mark.parametrize("form", FILES)
def test_the_duration_is_measured_without_decoding(form):
    for data in (encode(tone(2), form), b"".join(live(tone(2), form))):
        assert audio.measure_seconds(data) == pytest.approx(2, abs=0.08)


def test_decoding_resamples_on_demand():
    pcm = decode(
        encode(tone(1, rate=44_100, channels=2), "flac"), limit_seconds=9, rate=16_000, channels=1
    )
    assert (pcm.rate, pcm.channels) == (16_000, 1)
    assert pcm.duration_seconds == pytest.approx(1, abs=0.001)
    assert hertz(pcm) == pytest.approx(440, abs=3)


def test_importing_the_modules_imports_neither_pyav_nor_pillow():
    code = (
        "import sys, gateway.audio, gateway.encoder, gateway.images, gateway.fetching;"
        "sys.exit(not {'av', 'PIL', 'numpy'}.isdisjoint(sys.modules))"
    )
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
