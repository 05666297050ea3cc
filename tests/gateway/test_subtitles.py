"""Transcripts in OpenAI's forms, from what native speech recognition answers."""

import pytest

from gateway.subtitles import Span, parse_chunks, render_srt, render_verbose, render_vtt

SEGMENTS = (Span(0.0, 4.1, "Hello there."), Span(3661.5, 3663.0625, "Tom & <Jerry>"))


def test_native_chunks_become_spans():
    chunks = [
        {"text": " Hello there.", "timestamp": [0.0, 4.1]},
        {"text": " And more.", "timestamp": [4.1, None]},
    ]
    assert parse_chunks(chunks, duration_seconds=6.5) == (
        Span(0.0, 4.1, "Hello there."),
        Span(4.1, 6.5, "And more."),
    )


@pytest.mark.parametrize(
    ("timestamps", "times"),
    [
        ([[0, 1], [None, None]], [(0, 1), (1, 9)]),
        ([[0, 1], None], [(0, 1), (1, 9)]),
        ([None], [(0, 9)]),
        ([[]], [(0, 9)]),
        ([[2, 1]], [(2, 2)]),
        ([[-1, 1]], [(0, 1)]),
        ([[5, 6], [0, 1]], [(5, 6), (5, 5)]),
        ([[8, None], [10, None]], [(8, 9), (10, 10)]),
    ],
)
def test_missing_and_impossible_times_are_mended(timestamps, times):
    chunks = [{"text": "a", "timestamp": timestamp} for timestamp in timestamps]
    spans = parse_chunks(chunks, duration_seconds=9)
    assert [(span.start, span.end) for span in spans] == times


def test_empty_chunks_are_left_out():
    chunks = [{"text": " ", "timestamp": [0, 1]}, {"timestamp": [1, 2]}, {"text": None}]
    assert parse_chunks(chunks, duration_seconds=9) == ()


def test_srt_has_numbered_cues_and_commas():
    assert render_srt(SEGMENTS) == (
        "1\n00:00:00,000 --> 00:00:04,100\nHello there.\n\n"
        "2\n01:01:01,500 --> 01:01:03,062\nTom & <Jerry>\n\n"
    )


def test_vtt_has_a_header_points_and_escapes():
    assert render_vtt(SEGMENTS) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:04.100\nHello there.\n\n"
        "01:01:01.500 --> 01:01:03.062\nTom &amp; &lt;Jerry>\n\n"
    )


def test_milliseconds_are_carried():
    assert "00:00:59,999 --> 00:01:00,000" in render_srt([Span(59.9994, 59.9996, "a")])


@pytest.mark.parametrize("text", ["a\n\n2\nb", "a\r\n\r\nb", "a\n00:00:00,000 --> 00:00:01,000\nb"])
@pytest.mark.parametrize("render", [render_srt, render_vtt])
def test_a_text_cannot_forge_another_cue(render, text):
    rendered = render([Span(0, 1, text)])
    assert rendered.count("-->") == 1
    assert rendered.removeprefix("WEBVTT\n\n").count("\n\n") == 1


def test_verbose_json_has_all_of_openais_keys():
    answer = render_verbose("Hello.", SEGMENTS[:1], None, duration_seconds=4.10049)
    assert answer == {
        "task": "transcribe",
        "language": "english",
        "duration": 4.1,
        "text": "Hello.",
        "segments": [
            {
                "id": 0,
                "seek": 0,
                "start": 0.0,
                "end": 4.1,
                "text": "Hello there.",
                "tokens": [],
                "temperature": 0.0,
                "avg_logprob": 0.0,
                "compression_ratio": 0.0,
                "no_speech_prob": 0.0,
            }
        ],
    }


def test_verbose_json_tells_words_where_they_were_asked_for():
    answer = render_verbose(
        "Hi you", None, [Span(0, 1, "Hi"), Span(1, 2, "you")], duration_seconds=2, task="translate"
    )
    assert answer["words"] == [
        {"word": "Hi", "start": 0, "end": 1},
        {"word": "you", "start": 1, "end": 2},
    ]
    assert "segments" not in answer
    assert answer["task"] == "translate"


def test_openais_sdk_reads_it():
    from openai.types.audio import TranscriptionVerbose

    words = [Span(0, 1, "Hi")]
    answer = render_verbose("Hi", SEGMENTS, words, duration_seconds=2)
    read = TranscriptionVerbose.model_validate(answer, strict=True)
    assert read.segments is not None
    assert [segment.id for segment in read.segments] == [0, 1]
    assert read.words is not None
    assert read.words[0].word == "Hi"
