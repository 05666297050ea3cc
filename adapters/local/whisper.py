"""Whisper in CTranslate2: sound to text. The only file that knows faster-whisper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faster_whisper import WhisperModel

from adapters.local.audio import decode

SAMPLE_RATE = 16_000


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of text, with the space before it, and when it is said, in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What is said in audio of `audio_seconds`, in segments or in words."""

    passages: tuple[Passage, ...]
    audio_seconds: float

    @property
    def text(self) -> str:
        return "".join(passage.text for passage in self.passages).strip()


class Whisper:
    """The model in the directory `path`. The constructor blocks."""

    def __init__(self, path: Path, *, threads: int) -> None:
        self._model = WhisperModel(
            str(path), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True
        )

    def transcribe(
        self,
        audio: bytes,
        *,
        by_word: bool,
        beams: int,
        temperature: float,
        most_seconds: float,
        checkpoint: Callable[[], None],
    ) -> Transcript:
        """Return what is said in the audio file. Raises Malformed or Invalid. Blocks.

        What `checkpoint` raises between two segments ends it.
        """
        samples = decode(audio, rate=SAMPLE_RATE, most_seconds=most_seconds)
        checkpoint()
        segments, _ = self._model.transcribe(
            samples,
            beam_size=beams,
            # One temperature, not the usual ladder of them: the same sound, the same text.
            temperature=temperature,
            # So that a loop in one window of 30 seconds does not spread to the next.
            condition_on_previous_text=False,
            word_timestamps=by_word,
        )
        passages: list[Passage] = []
        for segment in segments:
            checkpoint()
            if by_word:
                words = segment.words or ()
                passages += [Passage(word.word, *_span(word.start, word.end)) for word in words]
            else:
                passages.append(Passage(segment.text, *_span(segment.start, segment.end)))
        return Transcript(tuple(passages), len(samples) / SAMPLE_RATE)


def _span(start: float, end: float) -> tuple[float, float]:
    """Return both as plain floats, to the hundredth: the model hears in steps of 20 ms."""
    return round(float(start), 2), round(float(end), 2)
