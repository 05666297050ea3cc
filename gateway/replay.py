"""Settlements from the spool, made up for once the state store takes them."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Literal

import msgspec

from gateway import quotas, spool
from gateway.quotas import Settlement
from gateway.store import StateStore, StoreRefused, StoreUnavailable

logger = logging.getLogger(__name__)

_AT_ONCE = 100
_FAULTS = frozenset({"ERR", "WRONGTYPE"})
"""What the store answers to a settlement that is wrong. It may refuse a sound one for other
reasons, which pass: its memory is full, a node is moved."""
_Outcome = Literal["settled", "bad", "later"]
_parse = msgspec.json.Decoder(Settlement).decode


async def replay(state: StateStore, folder: Path) -> None:
    """Settle what is in the spool, oldest file first.

    A line leaves its file once it was answered, so that it is sent again only where the process
    was killed in between, and then the store knows it. One that cannot be settled goes into a
    file beside. Raises StoreUnavailable if the store stops taking them, and OSError.
    """
    files = spool.read(folder)
    while file := await asyncio.to_thread(next, files, None):
        outcomes = await _settle(state, file.lines)
        await asyncio.to_thread(_tidy, file, outcomes)
        if "later" in outcomes:
            raise StoreUnavailable("the state store takes no settlements from the spool")


async def _settle(state: StateStore, lines: tuple[bytes, ...]) -> list[_Outcome]:
    outcomes: list[_Outcome] = []
    for start in range(0, len(lines), _AT_ONCE):
        some = lines[start : start + _AT_ONCE]
        if "later" in outcomes:
            outcomes += ["later"] * len(some)
        else:
            outcomes += await asyncio.gather(*(_settle_line(state, line) for line in some))
    return outcomes


async def _settle_line(state: StateStore, line: bytes) -> _Outcome:
    try:
        await quotas.replay(state, _parse(line))
    except msgspec.DecodeError:
        return "bad"
    except StoreRefused as error:
        return "bad" if error.code in _FAULTS else "later"
    except StoreUnavailable:
        return "later"
    return "settled"


def _tidy(file: spool.File, outcomes: list[_Outcome]) -> None:
    bad = [line for line, outcome in zip(file.lines, outcomes, strict=True) if outcome == "bad"]
    left = [line for line, outcome in zip(file.lines, outcomes, strict=True) if outcome == "later"]
    if bad:
        aside = file.set_aside(bad)
        logger.error("%d settlements cannot be used and are now in %r", len(bad), str(aside))
    file.keep(left)
