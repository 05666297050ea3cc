"""What is observed adds up to the same in whatever order it is added."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from gateway.metrics.registry import Series, exact

SECONDS = st.floats(min_value=0, max_value=1_000_000)


@given(st.lists(SECONDS, min_size=2))
def test_sums_do_not_depend_on_their_order(amounts: list[float]) -> None:
    *_, forwards = accumulate(map(exact, amounts))
    *_, backwards = accumulate(map(exact, reversed(amounts)))
    assert forwards == backwards


@given(SECONDS)
def test_an_amount_is_off_by_less_than_a_microsecond(amount: float) -> None:
    assert abs(exact(amount) - amount) < 1e-6


@given(st.integers(min_value=0, max_value=2**31))
def test_a_count_stays_as_it_is(count: int) -> None:
    assert exact(count) == count


def test_histograms_add_exact_amounts() -> None:
    series = Series()
    series.observer("dragoman_store_duration_seconds", "state")(0.1)
    [sum_] = [
        sample.value
        for family in series.registry.collect()
        for sample in family.samples
        if sample.name == "dragoman_store_duration_seconds_sum"
    ]
    assert sum_ == exact(0.1) != 0.1
