"""What dead workers have counted stays true while it is added up, whoever dies of that."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gateway.metrics import dead
from gateway.metrics.dead import MOST_FILES, add_up, listed
from gateway.metrics.exposition import _Files
from tests.gateway.metrics.told import Told

COUNT = """
import os
from gateway.metrics.registry import Series
series = Series()
series.adder("dragoman_retries_total", "m")(2)
for seconds in (0.1, 0.2, 0.7):
    series.observer("dragoman_model_loading_seconds", "u", "m")(seconds)
series.gauge("dragoman_workers").set(1)
print(os.getpid(), flush=True)
"""
AND_WAIT = "import sys; sys.stdin.read()"
ADD_UP = """
import sys
from pathlib import Path
from gateway.metrics.dead import add_up
print("begins", flush=True)
while True:
    add_up(Path(sys.argv[1]))
"""


def started(folder: Path, program: str) -> subprocess.Popen[str]:
    """Return a process of its own, which has written its first line."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(folder)],
        env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline()
    return process


def killed(process: subprocess.Popen[str]) -> int:
    """Kill it, and return the id that it had."""
    process.kill()
    process.communicate()
    return process.pid


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a worker that was killed, by what kind of metrics they hold."""
    folder = tmp_path_factory.mktemp("one")
    killed(started(folder, COUNT + AND_WAIT))
    return {file.stem.rpartition("_")[0]: file.read_bytes() for file in folder.glob("*.db")}


@pytest.fixture(scope="module")
def dead_pids() -> Iterator[int]:
    """Ids that no process has: Linux gives none above 2**22."""
    return count(2**30)


Die = Callable[[], None]


@pytest.fixture
def die(tmp_path: Path, counted: dict[str, bytes], dead_pids: Iterator[int]) -> Die:
    """Leave the files of one more dead worker."""

    def leave() -> None:
        pid = next(dead_pids)
        for kind in ("counter", "histogram"):
            making = tmp_path / "next"
            making.write_bytes(counted[kind])
            making.rename(tmp_path / f"{kind}_{pid}.db")

    return leave


def told(folder: Path) -> Told:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Files(folder))
    return Told.of(generate_latest(registry).decode())


def values(folder: Path) -> dict[Any, float]:
    samples = told(folder).samples
    return {(one.name, frozenset(one.labels.items())): one.value for one in samples}


def check_sums(folder: Path, workers: int) -> None:
    seen = told(folder)
    assert seen.value("dragoman_retries_total", model="m") == 2 * workers
    assert seen.value("dragoman_model_loading_seconds_count") == 3 * workers
    assert seen.value("dragoman_model_loading_seconds_sum") == pytest.approx(workers)


def files(folder: Path) -> list[Path]:
    with listed(folder) as found:
        return found


def test_many_dead_workers_leave_two_files_and_all_they_counted(tmp_path: Path, die: Die) -> None:
    for workers in range(1, 4 * MOST_FILES):
        die()
        before = values(tmp_path)
        add_up(tmp_path)
        assert values(tmp_path) == before  # to the last bit
        assert len(files(tmp_path)) <= MOST_FILES
        check_sums(tmp_path, workers)
    assert len([*tmp_path.glob("dead-*")]) == 1


def test_a_sum_never_outgrows_the_room_that_it_took(tmp_path: Path, die: Die) -> None:
    for _ in range(MOST_FILES):
        die()
    add_up(tmp_path)
    for file in files(tmp_path):
        used_bytes = int.from_bytes(file.read_bytes()[:4], sys.byteorder)
        assert used_bytes <= file.stat().st_size < 1.1 * used_bytes


def test_few_files_are_left_alone(tmp_path: Path, die: Die) -> None:
    for _ in range(MOST_FILES // 2):
        die()
    before = files(tmp_path)
    add_up(tmp_path)
    assert files(tmp_path) == before


def test_who_lives_goes_on_counting(tmp_path: Path, die: Die) -> None:
    lives = started(tmp_path, COUNT + AND_WAIT)
    dies = started(tmp_path, COUNT + AND_WAIT)
    for _ in range(MOST_FILES):
        die()
    pid = killed(dies)
    add_up(tmp_path)
    kept = {file.name for file in tmp_path.glob("*.db")}
    check_sums(tmp_path, MOST_FILES + 2)
    assert f"counter_{lives.pid}.db" in kept
    assert f"histogram_{pid}.db" not in kept
    killed(lives)


class Killed(BaseException):
    """The end of the process, in the midst of something."""


def dying_at(number: int, call: Callable[..., Any], steps: Iterator[int]) -> Callable[..., Any]:
    """Return `call`, which is the end at step `number`: an even one before it, an odd one after."""

    def step(*args: Any, **kwargs: Any) -> Any:
        if next(steps) == number:
            raise Killed
        made = call(*args, **kwargs)
        if next(steps) == number:
            raise Killed
        return made

    return step


def removing_one(folder: Path, **_: Any) -> None:
    """Remove a file, and die."""
    if folder.exists():
        next(folder.iterdir()).unlink()
        raise Killed


def add_up_and_die(folder: Path, number: int) -> bool:
    """Tell whether there was such a step to die at."""
    steps = count()
    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
        for owner, name in (
            (Path, "mkdir"),
            (Path, "rename"),
            (Path, "write_bytes"),
            (shutil, "rmtree"),
            (dead, "_write"),
        ):
            patch.setattr(owner, name, dying_at(number, getattr(owner, name), steps))
        add_up(folder)
        return False
    return True


def test_whoever_is_killed_while_adding_up_loses_nothing(tmp_path: Path, die: Die) -> None:
    workers = 0
    for number in count():
        for _ in range(MOST_FILES):
            die()
            workers += 1
        was_killed = add_up_and_die(tmp_path, number)
        check_sums(tmp_path, workers)
        add_up(tmp_path)
        check_sums(tmp_path, workers)
        if not was_killed:
            break
    assert number > 2 * 2 * MOST_FILES  # each of the renames, and more


def test_what_was_being_removed_does_not_count_and_is_removed_in_the_end(
    tmp_path: Path, die: Die, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(MOST_FILES):
        die()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(shutil, "rmtree", removing_one)
        add_up(tmp_path)
    assert len([*tmp_path.glob("dead-*")]) == 2
    check_sums(tmp_path, MOST_FILES)
    add_up(tmp_path)
    assert len([*tmp_path.glob("dead-*")]) == 1
    check_sums(tmp_path, MOST_FILES)


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """A disk without room for a sum; undo it to have some."""

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(dead, "_write", refuse)
    yield monkeypatch


def test_without_room_for_the_sum_nothing_is_lost(
    tmp_path: Path, die: Die, full_disk: pytest.MonkeyPatch
) -> None:
    for workers in range(1, 4):
        for _ in range(MOST_FILES):
            die()
        with pytest.raises(OSError, match="No space"):
            add_up(tmp_path)
        check_sums(tmp_path, workers * MOST_FILES)
    full_disk.undo()
    add_up(tmp_path)
    check_sums(tmp_path, 3 * MOST_FILES)
    assert len(files(tmp_path)) == 2


def test_a_process_id_that_comes_again_is_no_reason_to_lose_what_its_first_owner_left(
    tmp_path: Path,
    counted: dict[str, bytes],
    dead_pids: Iterator[int],
    full_disk: pytest.MonkeyPatch,
) -> None:
    pids = [next(dead_pids) for _ in range(MOST_FILES)]
    for workers in range(1, 4):
        for pid in pids:
            for kind in ("counter", "histogram"):
                (tmp_path / f"{kind}_{pid}.db").write_bytes(counted[kind])
        with pytest.raises(OSError, match="No space"):
            add_up(tmp_path)
        check_sums(tmp_path, workers * MOST_FILES)


def test_a_damaged_file_costs_what_is_in_it(
    tmp_path: Path, die: Die, dead_pids: Iterator[int], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(MOST_FILES):
        die()
    (tmp_path / f"counter_{next(dead_pids)}.db").write_bytes(b"\x40\0\0\0\0\0\0\0" + b"\x7f" * 64)
    add_up(tmp_path)
    check_sums(tmp_path, MOST_FILES)
    assert "cannot be read" in caplog.text


def test_nobody_adds_up_what_somebody_reads(tmp_path: Path, die: Die) -> None:
    for _ in range(MOST_FILES):
        die()
    with listed(tmp_path) as found:
        add_up(tmp_path)
        assert all(map(Path.exists, found))
    add_up(tmp_path)
    assert not any(map(Path.exists, found))


def test_each_reading_is_true_while_others_add_up_and_are_killed(tmp_path: Path, die: Die) -> None:
    adding = [started(tmp_path, ADD_UP) for _ in range(2)]
    for workers in range(1, 101):
        die()
        check_sums(tmp_path, workers)
        while len(files(tmp_path)) > MOST_FILES:
            check_sums(tmp_path, workers)
        if workers in (50, 100):
            killed(adding.pop())
    add_up(tmp_path)
    check_sums(tmp_path, 100)
    assert len(files(tmp_path)) <= MOST_FILES
