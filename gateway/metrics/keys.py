"""What each key uses, for as many keys as the operator wants told apart."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.metrics.registry import Add, Series

if TYPE_CHECKING:
    from gateway.ledger import Record

REST = "_other"
_FILE = "keys"


class Places:
    """So many places, given to whoever comes first: of all workers that share `folder`.

    Without a folder they are this process's own. A place is kept until the folder is emptied.
    """

    def __init__(self, count: int, folder: Path | None) -> None:
        self._count = count
        self._path = folder / _FILE if folder else None
        self._taken: set[str] = set()

    def take(self, name: str) -> bool:
        """Tell whether `name` has a place, or gets one. Raises OSError.

        A disk is asked for names that are new here, until there is no place left.
        """
        if name in self._taken:
            return True
        if len(self._taken) >= self._count:
            return False
        if self._path is None:
            self._taken.add(name)
        else:
            self._taken = _entered(self._path, name, most=self._count)
        return name in self._taken


def _entered(path: Path, name: str, *, most: int) -> set[str]:
    """Return the names in a file, a line each, `name` among them if there was room."""
    with path.open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # let go of when it is closed, or its process dies
        file.seek(0, os.SEEK_SET)
        names = set(file.read().split())
        if name not in names and len(names) < most:
            names.add(name)
            file.write(f"{name}\n")
    return names


class Keys:
    """Counts by the public id of the key."""

    def __init__(self, series: Series, places: Places) -> None:
        self._series = series
        self._places = places
        self._of_key: dict[str, _OfKey] = {}

    def add(self, record: Record) -> None:
        """Count an admitted request."""
        counters = self._of_key.get(record.key_id) or self._counters(record.key_id)
        counters.add(record)

    def _counters(self, key: str) -> _OfKey:
        try:
            label = key if self._places.take(key) else REST
        except OSError:
            label = REST
        counters = self._of_key.get(label)
        if counters is None:
            counters = self._of_key[label] = _OfKey(self._series, label)
        return counters


class _OfKey:
    def __init__(self, series: Series, key: str) -> None:
        self._requests = series.adder("dragoman_key_requests_total", key)
        self._nano_usd = series.adder("dragoman_key_cost_nano_usd_total", key)
        self._input_tokens = series.adder("dragoman_key_tokens_total", key, "input")
        self._output_tokens = series.adder("dragoman_key_tokens_total", key, "output")

    def add(self, record: Record) -> None:
        _grow(self._requests, 1)
        _grow(self._nano_usd, record.nano_usd)
        _grow(self._input_tokens, record.input_tokens)
        _grow(self._output_tokens, record.output_tokens)


def _grow(add: Add, amount: int) -> None:
    if amount:
        add(amount)
