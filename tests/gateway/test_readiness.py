"""Whether a gateway is ready, by what it lacks."""

from __future__ import annotations

import pytest

from gateway.departure import Departure
from gateway.readiness import Readiness

pytestmark = pytest.mark.anyio


class Away:
    """Stores of which some do not answer."""

    def __init__(self, *names: str) -> None:
        self._names = names

    async def missing(self) -> dict[str, str]:
        return dict.fromkeys(self._names, "StoreUnavailable")


class Shelf:
    def __init__(self, *, pending: tuple[str, ...] = (), failed: dict[str, str] | None = None):
        self.pending = pending
        self.failed = failed or {}


async def look(**lacks):
    asked = {"shelves": (), "stores": Away(), "departure": None, "needs_state": False}
    return await Readiness(**(asked | lacks)).look()


async def test_one_that_lacks_nothing_is_ready():
    assert await look() == (True, [])


@pytest.mark.parametrize(
    ("away", "needs_state", "can_serve"),
    [
        ("cache store", True, True),
        ("state store", False, True),
        ("state store", True, False),
        ("part of the state store", True, True),
    ],
)
async def test_a_store_that_is_away_is_told_but_only_one_that_is_needed_matters(
    away, needs_state, can_serve
):
    found = await look(stores=Away(away), needs_state=needs_state)
    assert found == (can_serve, [f"{away}: StoreUnavailable"])


async def test_templates_must_be_there():
    shelf = Shelf(pending=("a",), failed={"b": "no such file"})
    assert await look(shelves=[shelf]) == (
        False,
        ["template 'a': loading", "template 'b': no such file"],
    )


async def test_one_that_drains_is_not_ready_and_one_that_retires_is():
    departure = Departure(drain_seconds=1, retire_seconds=1)
    departure.retire()
    assert await look(departure=departure) == (True, [])
    departure.drain()
    assert await look(departure=departure) == (False, ["draining"])
