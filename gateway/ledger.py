"""The ledger's records: one for each admitted request, as they travel from worker to book."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import msgspec

from gateway.amounts import Amounts, Usage

DAY_MS = 86_400_000
_SEQUENCE_BITS = 20

Status = Literal["ok", "error", "disconnected", "abandoned"]


class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one request used. `finish`: why the answer ended, or the error's code.

    `abandoned`: its worker died before it could settle. `client`: its address, if asked for.
    """

    request_id: str
    key_id: str
    team: str | None = None
    model: str
    target: str
    upstream: str
    task: str
    status: Status = "ok"
    finish: str | None = None
    cached: bool = False
    estimated: bool = False
    input_tokens: int = 0
    output_tokens: int = 0
    images: int = 0
    characters: int = 0
    audio_ms: int = 0
    nano_usd: int = 0
    total_ms: int = 0
    upstream_ms: int = 0
    first_token_ms: int | None = None
    retries: int = 0
    client: str | None = None

    @property
    def amounts(self) -> Amounts:
        """What it counts as on limits."""
        return amounts_of(self, task=self.task, nano_usd=self.nano_usd)


def amounts_of(used: Usage | Record, *, task: str, nano_usd: int) -> Amounts:
    """Return what counts on limits: characters only if spoken, audio only if transcribed."""
    return Amounts(
        tokens=used.input_tokens + used.output_tokens,
        images=used.images,
        characters=used.characters if task == "speech" else 0,
        audio_ms=used.audio_ms if task == "transcription" else 0,
        nano_usd=nano_usd,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A record on its way to the book.

    `at_ms`: when the request was admitted, by the store's clock. `entry`: its place in the shard's
    stream. `replaces`: it takes the place of the request's `abandoned` record.
    """

    at_ms: int
    shard: int
    entry: int
    record: Record
    replaces: bool = False


def entry_number(stream_id: str) -> int:
    """Return a stream id (`milliseconds-sequence`) as one number that sorts alike."""
    milliseconds, _, sequence = stream_id.partition("-")
    return int(milliseconds) << _SEQUENCE_BITS | int(sequence)


def day_of(at_ms: int) -> int:
    """Return the UTC day, counted from 1970-01-01."""
    return at_ms // DAY_MS


def month_of(at_ms: int) -> int:
    """Return the UTC month, counted from year 0."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.year * 12 + moment.month - 1


def first_day_of(month: int) -> int:
    """Return the first day of a month, counted from 1970-01-01."""
    year, index = divmod(month, 12)
    return datetime(year, index + 1, 1, tzinfo=UTC).toordinal() - datetime(1970, 1, 1).toordinal()
