"""What a key or a team may use."""

from __future__ import annotations

from dataclasses import dataclass, fields
from decimal import Decimal

NANO_USD = 1_000_000_000
# Counters are Lua's numbers in the store: whole only up to 2**53, in nano-USD nine million dollars.
_MOST = 10**12
_MOST_USD = Decimal(1_000_000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """None is no limit. Raises ValueError, which names the field.

    `rpm_burst` and `tpm_burst` are what may be taken at once; they follow from the rate if unset.
    """

    rpm: int | None = None
    rpm_burst: int | None = None
    tpm: int | None = None
    tpm_burst: int | None = None
    concurrency: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    images_per_day: int | None = None
    speech_characters_per_day: int | None = None
    audio_seconds_per_day: int | None = None
    usd_per_month: Decimal | None = None

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            kind, most = (Decimal, _MOST_USD) if name == "usd_per_month" else (int, _MOST)
            # bool is an int to isinstance; comparing Decimal("NaN") raises.
            if type(value) is not kind or not Decimal(value).is_finite() or not 0 <= value <= most:
                raise ValueError(
                    f"{name}: expected {kind.__name__} from 0 to {most:,}, got {value!r}"
                )
        for name in ("rpm", "tpm"):
            if getattr(self, f"{name}_burst") is not None and getattr(self, name) is None:
                raise ValueError(f"{name}_burst: expected {name} beside it")

    def given(self) -> dict[str, int | Decimal]:
        """Return the limits that are set, by name."""
        values = {limit.name: getattr(self, limit.name) for limit in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
