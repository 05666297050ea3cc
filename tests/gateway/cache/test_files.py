"""Large answers as files: named after their content, bounded, the longest unread going first."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from gateway.cache.files import AnswerFiles

PLENTY = 1_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "answers"


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_what_one_worker_writes_another_reads(folder: Path) -> None:
    name = AnswerFiles(folder, limit_bytes=PLENTY).write(b"an answer")
    assert AnswerFiles(folder, limit_bytes=PLENTY).read(name) == b"an answer"


def test_the_same_content_is_kept_once(folder: Path) -> None:
    files = AnswerFiles(folder, limit_bytes=PLENTY)
    assert files.write(b"an answer") == files.write(b"an answer") != files.write(b"another")
    assert files.measure() == (2, 16)


def test_only_the_owner_of_the_process_can_read_them_on_disk(folder: Path) -> None:
    name = AnswerFiles(folder, limit_bytes=PLENTY).write(b"an answer")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"an answeR", b"an answe", b"an answer\0"])
def test_a_file_that_is_not_what_its_name_says_is_not_read_and_goes(
    folder: Path, content: bytes
) -> None:
    files = AnswerFiles(folder, limit_bytes=PLENTY)
    name = files.write(b"an answer")
    (folder / name).write_bytes(content)
    assert files.read(name) is None
    assert names(folder) == set()
    assert files.write(b"an answer") == name
    assert files.read(name) == b"an answer"


def test_the_longest_unread_make_room(folder: Path) -> None:
    files = AnswerFiles(folder, limit_bytes=100)
    first, second, third = (files.write(bytes([at]) * 30) for at in range(3))
    for at, name in enumerate((first, second, third)):
        age(folder / name, 60 - at)
    assert files.read(first) is not None
    fourth = files.write(b"x" * 30)
    assert names(folder) == {first, third, fourth}


def test_an_answer_beyond_the_limit_is_refused_and_costs_no_other(folder: Path) -> None:
    files = AnswerFiles(folder, limit_bytes=100)
    name = files.write(b"x" * 100)
    with pytest.raises(OSError) as caught:
        files.write(b"x" * 101)
    assert caught.value.errno == errno.EFBIG
    assert names(folder) == {name}


def test_what_a_crash_left_half_written_is_swept_in_its_turn(folder: Path) -> None:
    files = AnswerFiles(folder, limit_bytes=100)
    files.write(b"x" * 10)
    partial = folder / ".0123456789abcdef"
    partial.write_bytes(b"x" * 60)
    files.write(b"y" * 50)
    assert partial.exists()  # it may be someone's who is writing
    age(partial, 61)
    files.write(b"z" * 50)
    assert not partial.exists()


def test_a_full_disk_is_told_and_leaves_nothing_behind(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = AnswerFiles(folder, limit_bytes=PLENTY)
    name = files.write(b"an answer")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(b"another")
    assert names(folder) == {name}


def test_a_folder_that_goes_is_made_anew(folder: Path) -> None:
    files = AnswerFiles(folder, limit_bytes=PLENTY)
    assert files.measure() == (0, 0)
    name = files.write(b"an answer")
    shutil.rmtree(folder)
    assert files.read(name) is None
    assert files.measure() == (0, 0)
    assert not files.remove(name)
    assert files.write(b"an answer") == name


def test_a_data_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AnswerFiles(tmp_path / "gone" / "answers", limit_bytes=PLENTY).write(b"an answer")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../secret", "a" * 63, "A" * 64, "a" * 64 + "\n", "\0" * 64]
)
def test_names_that_were_never_given_out_reach_nothing(folder: Path, name: str) -> None:
    files = AnswerFiles(folder, limit_bytes=PLENTY)
    kept = files.write(b"an answer")
    secret = folder.parent / "secret"
    secret.write_bytes(b"secret")
    assert files.read(name) is None
    assert not files.remove(name)
    assert secret.exists()
    assert names(folder) == {kept}


def test_workers_that_write_at_once_keep_within_the_limit(folder: Path) -> None:
    limit, size, writers, times = 5_000, 500, 4, 40
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        files = AnswerFiles(folder, limit_bytes=limit)
        try:
            for at in range(times):
                data = bytes([worker, at]) * (size // 2)
                assert files.read(files.write(data)) in (data, None)
        except BaseException as exc:  # noqa: BLE001 (told to the test's own thread)
            failures.append(exc)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert AnswerFiles(folder, limit_bytes=limit).measure()[1] <= limit + (writers - 1) * size
    assert all(len(name) == 64 for name in names(folder))
