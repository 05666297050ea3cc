"""Images kept for those who ask for an address: found by name alone, for an hour, within bounds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from gateway import image_files
from gateway.image_files import LIFETIME_SECONDS, ImageFiles


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "images"


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_what_one_worker_writes_another_reads(directory: Path) -> None:
    name = ImageFiles(directory).write(b"a picture", "png")
    assert ImageFiles(directory).read(name) == b"a picture"


def test_only_the_owner_of_the_process_can_read_them_on_disk(directory: Path) -> None:
    name = ImageFiles(directory).write(b"a picture", "png")
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / name).stat().st_mode & 0o777 == 0o600


def test_names_cannot_be_guessed(directory: Path) -> None:
    files = ImageFiles(directory)
    names = {files.write(b"", "webp") for _ in range(50)}
    assert len(names) == 50
    assert all(len(name) == len("x" * 32 + ".webp") for name in names)


def test_an_image_expires_after_an_hour(directory: Path) -> None:
    files = ImageFiles(directory)
    name = files.write(b"a picture", "png")
    age(directory / name, LIFETIME_SECONDS - 5)
    assert files.read(name) == b"a picture"
    age(directory / name, LIFETIME_SECONDS + 5)
    assert files.read(name) is None


def test_whoever_writes_sweeps_what_has_expired(directory: Path) -> None:
    old = ImageFiles(directory).write(b"old", "png")
    age(directory / old, LIFETIME_SECONDS + 5)
    new = ImageFiles(directory).write(b"new", "png")
    assert [path.name for path in directory.iterdir()] == [new]


def test_the_oldest_make_room_for_the_newest(directory: Path) -> None:
    files = ImageFiles(directory, limit_bytes=100)
    names = []
    for at in range(6):
        names.append(files.write(b"x" * 30, "png"))
        age(directory / names[-1], 60 - at)
    assert {path.name for path in directory.iterdir()} == set(names[-3:])


def test_files_are_bounded_in_number_too(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "LIMIT_FILES", 3)
    files = ImageFiles(directory)
    for at in range(6):
        age(directory / files.write(b"x", "png"), 60 - at)
    assert len(list(directory.iterdir())) == 3


@pytest.mark.parametrize(
    "name", ["", "..", "../book.sqlite", "a.png", "x" * 32 + ".png", "x" * 32 + ".svg", "\0" * 36]
)
def test_names_that_were_never_given_out_find_nothing(directory: Path, name: str) -> None:
    files = ImageFiles(directory)
    files.write(b"a picture", "png")
    (directory.parent / "book.sqlite").write_bytes(b"secret")
    assert files.read(name) is None
