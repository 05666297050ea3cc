"""Prices: exact to the nano-dollar."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from gateway.amounts import Usage
from gateway.prices import Price, nano

COUNTS = st.integers(0, 10**9)
RATES = st.integers(0, 10**12)


def test_an_amount_is_taken_as_it_was_written() -> None:
    assert nano(0.1) == 100_000_000
    assert nano(0.0375) == 37_500_000
    assert nano(3) == 3_000_000_000


def test_every_unit_has_its_price() -> None:
    price = Price(
        input_tokens=nano(0.05),
        output_tokens=nano(0.10),
        characters=nano(15),
        image=nano(0.04),
        audio_minute=nano(0.006),
    )
    assert price.nano_usd(Usage(input_tokens=1000)) == 50_000
    assert price.nano_usd(Usage(output_tokens=1000)) == 100_000
    assert price.nano_usd(Usage(characters=10)) == 150_000
    assert price.nano_usd(Usage(images=3)) == 120_000_000
    assert price.nano_usd(Usage(audio_ms=30_000)) == 3_000_000


@given(COUNTS, COUNTS, COUNTS, RATES, RATES, RATES)
def test_a_sum_is_rounded_once(tokens_in, tokens_out, audio_ms, rate_in, rate_out, minute) -> None:
    price = Price(input_tokens=rate_in, output_tokens=rate_out, audio_minute=minute)
    usage = Usage(input_tokens=tokens_in, output_tokens=tokens_out, audio_ms=audio_ms)
    exact = Fraction(tokens_in * rate_in + tokens_out * rate_out, 10**6)
    exact += Fraction(audio_ms * minute, 60_000)
    assert abs(price.nano_usd(usage) - exact) <= Fraction(1, 2)


@given(COUNTS, COUNTS, RATES)
def test_more_never_costs_less(tokens, more, rate) -> None:
    price = Price(output_tokens=rate)
    less = price.nano_usd(Usage(output_tokens=tokens))
    assert price.nano_usd(Usage(output_tokens=tokens + more)) >= less
