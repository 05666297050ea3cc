"""Jobs carried out without a cache: their parts made at once, or played back from a recording."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import msgspec

from gateway.exchange import Answer, Body, Job
from gateway.tapes import Direct, Part, Piece

Recorded = list[bytes]


class Played:
    """The tape of pieces that were packed as msgpack. `closed` tells how often it was closed."""

    is_free = True

    def __init__(self, recorded: Recorded) -> None:
        self._recorded = recorded
        self.closed = 0

    async def open(self) -> None:
        """All of it is there."""

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield what was recorded."""
        for packed in self._recorded:
            yield msgspec.msgpack.decode(packed, type=Piece)

    async def aclose(self) -> None:
        """Count."""
        self.closed += 1


class Recording(Direct):
    """A part that is made for the first time; `recorded` is what can be played again."""

    def __init__(self, part: Part) -> None:
        super().__init__(part)
        self.recorded: Recorded = []

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield what is made, and keep it."""
        async for piece in super().pieces():
            self.recorded.append(msgspec.msgpack.encode(piece))
            yield piece


async def answered(job: Job) -> Answer:
    """Return the answer of a job whose parts are made for it alone."""
    return await job.answer([Direct(part) for part in job.parts])


async def recorded(job: Job) -> tuple[bytes, list[Recorded]]:
    """Return all bytes of a job's answer, and its recording. Its parts are worth being kept."""
    tapes = [Recording(part) for part in job.parts]
    data = await _read(await job.answer(tapes))
    for part, tape in zip(job.parts, tapes, strict=True):
        pieces = [msgspec.msgpack.decode(packed, type=Piece) for packed in tape.recorded]
        assert part.is_sound(pieces)
        assert not part.is_sound(pieces[:-1])
    return data, [tape.recorded for tape in tapes]


async def played(job: Job, recordings: Sequence[Recorded]) -> bytes:
    """Return all bytes of a job's answer, made of a recording."""
    tapes = [Played(recording) for recording in recordings]
    data = await _read(await job.answer(tapes))
    assert all(tape.closed for tape in tapes)
    return data


async def _read(answer: Answer) -> bytes:
    if isinstance(answer, Body):
        return answer.data
    data = b"".join([frames async for frames in answer.frames()])
    assert answer.is_over
    await answer.aclose()
    return data
