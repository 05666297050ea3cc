"""What dead workers have counted: added up, so that reloads do not make every scrape longer.

Their files go into a folder `dead-<n>` one by one. Once there are many, their sum is made beside it
and becomes `dead-<n + 1>`; only the one with the highest number counts. So whenever a process dies
in here, each amount is in exactly one place.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast

from prometheus_client.mmap_dict import MmapedDict

from gateway.metrics.merging import UNREADABLE, merged

logger = logging.getLogger(__name__)

MOST_FILES = 8
_SUMMED = ("counter", "histogram")  # the parent process removes gauges
_ENTRY_BYTES = 4 + 8 + 16  # besides its key: that one's length, padding at most, value and time
# Without types.
_read = cast("Callable[[str], Iterable[tuple[Any, ...]]]", MmapedDict.read_all_values_from_file)
_map = cast("Callable[[str], Any]", MmapedDict)


@contextmanager
def listed(folder: Path) -> Iterator[list[Path]]:
    """Yield the files that count, which nobody adds up meanwhile. Raises OSError."""
    with _locked(folder, fcntl.LOCK_SH):
        yield sorted(file for one in (folder, *_graves(folder)[-1:]) for file in one.glob("*.db"))


def add_up(folder: Path) -> None:
    """Add up what the dead have left, if that is much, and nobody else is about it or reads it.

    Raises OSError; then nothing is lost.
    """
    try:
        with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB):
            *outdated, grave = _graves(folder) or [folder / "dead-0"]
            for one in outdated:  # whoever made their sum has died before it could remove them
                shutil.rmtree(one)
            left = [*_of_dead(folder)]
            if len(left) + len([*grave.glob("*.db")]) > MOST_FILES:
                _bury(left, grave)
    except BlockingIOError:
        pass


@contextmanager
def _locked(folder: Path, how: int) -> Iterator[None]:
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, how)  # let go of when it is closed, or its process dies
        yield


def _bury(left: Iterable[Path], grave: Path) -> None:
    grave.mkdir(exist_ok=True)
    for file in left:
        file.rename(grave / f"{file.stem}.{time.time_ns()}.db")  # process ids come again
    made = grave.with_name("making")
    shutil.rmtree(made, ignore_errors=True)  # of one that has died
    made.mkdir()
    for kind in _SUMMED:
        _write(made / f"{kind}_0.db", _sums(grave.glob(f"{kind}_*.db")))
    made.rename(grave.with_name(f"dead-{_number(grave) + 1}"))
    shutil.rmtree(grave)


def _sums(files: Iterable[Path]) -> Mapping[str, float]:
    """Return all values by their keys, in which name and labels are."""
    sums: Counter[str] = Counter()
    for file in files:
        try:
            merged([file])
        except UNREADABLE as error:
            logger.warning("metrics of a dead worker are lost, they cannot be read: %s", error)
            continue
        for key, value, *_ in _read(str(file)):
            sums[key] += value
    return sums


def _write(file: Path, sums: Mapping[str, float]) -> None:
    # For zeros see `gateway.metrics.room`.
    file.write_bytes(bytes(8 + sum(len(key.encode()) + _ENTRY_BYTES for key in sums)))
    with closing(_map(str(file))) as values:
        for key, value in sums.items():
            values.write_value(key, value, 0.0)


def _graves(folder: Path) -> list[Path]:
    return sorted(folder.glob("dead-*"), key=_number)


def _number(grave: Path) -> int:
    return int(grave.name.rpartition("-")[2])


def _of_dead(folder: Path) -> Iterator[Path]:
    for kind in _SUMMED:
        for file in folder.glob(f"{kind}_*.db"):
            pid = file.stem.rpartition("_")[2]
            if pid.isdecimal() and _is_dead(int(pid)):
                yield file


def _is_dead(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it is somebody else's by now
        pass
    return False
