import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.spool import Spool, read

pytestmark = pytest.mark.anyio

KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from gateway.spool import Spool

async def main():
    spool = Spool(Path(sys.argv[1]))
    await spool.put(b"on disk")
    os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    await spool.put(b"half written")

asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


@pytest.fixture
async def spool(folder: Path) -> AsyncIterator[Spool]:
    opened = Spool(folder)
    yield opened
    await opened.aclose()


def paths(folder: Path, pattern: str = "*") -> list[Path]:
    return list(folder.glob(pattern))


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def lines_of(folder: Path) -> list[tuple[bytes, ...]]:
    return [file.lines for file in read(folder)]


async def test_line_is_in_a_complete_file_once_its_future_is_done(
    spool: Spool, folder: Path
) -> None:
    await spool.put(b'{"a": 1}')

    [path] = paths(folder)
    assert path.suffix == ".jsonl"
    assert path.read_bytes() == b'{"a": 1}\n'


async def test_what_arrives_during_a_write_goes_with_the_next_one(
    spool: Spool, folder: Path
) -> None:
    first = [spool.put(b"first %d" % number) for number in range(3)]
    await asyncio.sleep(0)  # the write has begun
    second = [spool.put(b"second %d" % number) for number in range(100)]
    await asyncio.gather(*first, *second)

    assert lines_of(folder) == [
        tuple(b"first %d" % number for number in range(3)),
        tuple(b"second %d" % number for number in range(100)),
    ]


async def test_files_are_read_oldest_first(spool: Spool, folder: Path) -> None:
    for number in range(12):
        await spool.put(b"%d" % number)

    assert lines_of(folder) == [(b"%d" % number,) for number in range(12)]


async def test_file_and_folder_reach_the_disk_before_the_line_counts(
    spool: Spool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    sync = os.fsync

    def watch(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").resolve().suffix)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watch)
    await spool.put(b"line")

    assert synced == [".tmp", ""]


async def test_folder_and_files_are_private(spool: Spool, folder: Path) -> None:
    await spool.put(b"line")

    [path] = paths(folder)
    assert mode(folder) == 0o700
    assert mode(path) == 0o600


async def test_failing_disk_is_told_to_each_caller_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    spool = Spool(tmp_path / "file" / "spool")

    outcomes = await asyncio.gather(*(spool.put(b"line") for _ in range(3)), return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [NotADirectoryError] * 3
    [logged] = caplog.messages
    assert logged.startswith("3 settlements cannot be kept in")
    await spool.aclose()


async def test_spool_works_again_after_a_failure(
    spool: Spool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            await spool.put(b"lost")
    assert paths(folder) == []

    await spool.put(b"kept")

    assert lines_of(folder) == [(b"kept",)]


async def test_lines_beyond_the_bound_are_refused_until_the_disk_has_caught_up(
    folder: Path,
) -> None:
    spool = Spool(folder, most_waiting_bytes=10)

    first = spool.put(b"12345678")
    with pytest.raises(OSError, match="waits for the disk"):
        await spool.put(b"123")
    await first
    await spool.put(b"123")

    assert lines_of(folder) == [(b"12345678",), (b"123",)]
    await spool.aclose()


async def test_caller_that_left_does_not_keep_the_others_waiting(
    spool: Spool, folder: Path
) -> None:
    left, stayed = spool.put(b"left"), spool.put(b"stayed")
    left.cancel()
    await stayed

    assert lines_of(folder) == [(b"left", b"stayed")]


async def test_closing_writes_what_was_put(folder: Path) -> None:
    spool = Spool(folder)
    written = spool.put(b"last")

    await spool.aclose()

    assert written.done()
    assert lines_of(folder) == [(b"last",)]


def test_half_written_file_of_a_killed_process_is_cleared_away(folder: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], check=False)
    assert killed.returncode == -9
    assert len(paths(folder, "*.tmp")) == 1

    assert lines_of(folder) == [(b"on disk",)]
    assert paths(folder, "*.tmp") == []


def test_half_written_file_of_a_living_process_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    unfinished = folder / f"1-{os.getpid()}-1.jsonl.tmp"
    unfinished.write_bytes(b"half")

    assert lines_of(folder) == []
    assert unfinished.exists()


def test_folder_that_was_never_needed_reads_as_empty(folder: Path) -> None:
    assert lines_of(folder) == []


async def test_file_shrinks_to_what_is_kept_and_goes_with_the_last_line(
    spool: Spool, folder: Path
) -> None:
    await asyncio.gather(*(spool.put(line) for line in (b"a", b"b", b"c")))

    [file] = read(folder)
    file.keep([b"c"])
    assert lines_of(folder) == [(b"c",)]

    [file] = read(folder)
    file.keep([])
    assert paths(folder) == []


async def test_lines_set_aside_add_up_and_are_not_read_again(spool: Spool, folder: Path) -> None:
    await spool.put(b"torn")

    [file] = read(folder)
    file.set_aside([b"torn"])
    aside = file.set_aside([b"foreign"])

    assert aside.read_bytes() == b"torn\nforeign\n"
    assert lines_of(folder) == [(b"torn",)]


async def test_a_closed_spool_says_that_it_keeps_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    await spool.aclose()
    with pytest.raises(OSError, match="closed"):
        await spool.put(b"{}")
