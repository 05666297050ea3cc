"""Measure whether a request costs as much with a million keys and ten million records as with ten.

    python -m tests.bench.scale [--keys N] [--rows N] [--rounds N] [--seconds S] [--folder DIR]

Both books take turns, each gateway started anew, as in the bench (`python -m tests.bench`): the
load on core 0, the gateway with all it starts on core 1. The book needs some 5 GB and minutes to
be filled; it is removed at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from gateway import counters, embedded
from gateway.book import Book
from gateway.edge import uuid7
from gateway.keys import NewKey
from gateway.ledger import Entry, Record
from gateway.store import Store
from tests.bench import full_book, gateways, proc
from tests.bench.client import Connection, Target
from tests.bench.gateways import Launch, Site
from tests.bench.load import Workload, run
from tests.bench.running import Running, running
from tests.bench.upstream import Upstream

_LIMITS = {"rpm": 10_000_000, "tokens_per_day": 1_000_000_000_000}
_LOOKUPS = 200  # keys that a gateway has not seen yet
_ENTRIES, _AT_ONCE = 20_000, 2_000  # as the ledger's writer does
_REST_SECONDS = 1.0
_RESTING_LOAD = 0.05
_BYTES_PER_ROW = 600  # indexes, and what making them takes meanwhile


@dataclass(slots=True)
class Place:
    """One book, the gateway on it, and what was measured there; lists have an entry a round."""

    name: str
    launch: Launch
    data_dir: Path
    strangers: Sequence[NewKey]
    fill_seconds: float
    figures: dict[str, list[float]] = field(default_factory=dict)

    def note(self, figure: str, value: float) -> None:
        """Keep one figure of a round."""
        self.figures.setdefault(figure, []).append(value)


class Scale:
    """One run: an upstream, and the books of two sizes before it."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path, core: int | None) -> None:
        self._arguments = arguments
        self._scratch = scratch
        self._core = core
        self._upstream = Upstream(tokens_per_second=100)
        self._prompts = (f"Which fruit is number {number}?" for number in itertools.count(1))

    async def run(self) -> None:
        """Fill, measure and print."""
        arguments = self._arguments
        await self._upstream.start()
        sizes = {"small": (10, 10), "large": (arguments.keys, arguments.rows)}
        places = []
        for name, (keys, rows) in sizes.items():
            _tell(f"filling the {name} book: {keys:,} keys, {rows:,} records")
            places.append(await asyncio.to_thread(self._prepare, name, keys, rows))
            _tell(f"  took {places[-1].fill_seconds:.0f} s")
            await self._start_first(places[-1])
        for number in range(arguments.rounds):
            for place in places:
                _tell(f"round {number + 1}, {place.name}")
                await self._visit(place)
        for place in places:
            _tell(f"reports and writing, {place.name}")
            await self._look_back(place)
        self._upstream.close()
        print(_table(places))

    def _prepare(self, name: str, keys: int, rows: int) -> Place:
        scratch = self._scratch / name
        scratch.mkdir()
        site = Site(
            scratch=scratch,
            peers=scratch,
            upstream_port=self._upstream.port,
            tokenizer=Path("none"),
        )
        launch = gateways.dragoman_openai(site)
        data_dir = scratch / "data"
        seconds = full_book.fill(data_dir, keys=keys, rows=rows, limits=_LIMITS)
        strangers = full_book.adopt(data_dir, min(keys // 2, _LOOKUPS))
        return Place(name, launch, data_dir, strangers, seconds)

    async def _start_first(self, place: Place) -> None:
        """Let the state store, which is new, be told from the book what its counters are."""
        url, _ = embedded.urls(place.data_dir)
        async with self._running(place) as gateway:
            state = Store(url)
            began = time.perf_counter()
            while True:
                if not await counters.missing(state):
                    break
                await asyncio.sleep(_REST_SECONDS / 10)
            seconds = gateway.answer_seconds + time.perf_counter() - began
            place.note("first start, all counted, s", seconds)
            await state.aclose()

    def _running(self, place: Place) -> AbstractAsyncContextManager[Running]:
        return running(place.launch, log=self._scratch / f"{place.name}.log", core=self._core)

    async def _visit(self, place: Place) -> None:
        async with self._running(place) as gateway:
            place.note("start to first answer, s", gateway.answer_seconds)
            await self._load(gateway, Workload(tokens=16, connections=32, seconds=1.0))
            seconds = self._arguments.seconds
            spent, count = await self._load(
                gateway, Workload(tokens=16, connections=32, seconds=seconds)
            )
            place.note("CPU per request, µs", spent / count * 1e6)
            first, again = await self._look_up(gateway, place.strangers)
            place.note("a key's first request, ms", first)
            place.note("its second, ms", again)
            memory = proc.memory(gateway.pid)
            place.note("memory of all processes, MiB", sum(one.rss_mib for one in memory))

    async def _load(self, gateway: Running, workload: Workload) -> tuple[float, int]:
        """Return the CPU seconds of the gateway's processes, and the number of requests."""
        before = await _cpu_seconds_at_rest(gateway.pid)
        result = await run(gateway.target, workload, self._prompts)
        return await _cpu_seconds_at_rest(gateway.pid) - before, result.requests

    async def _look_up(self, gateway: Running, keys: Sequence[NewKey]) -> tuple[float, float]:
        """Return the median milliseconds of keys' first request for the models, and second."""
        connection = await Connection.open(gateway.target)
        costs: tuple[list[float], list[float]] = ([], [])
        for key in keys:
            request = _models_request(gateway.target, key.text)
            for kept in costs:
                began = time.perf_counter()
                answer = await connection.exchange(request)
                kept.append((time.perf_counter() - began) * 1000)
                assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
        connection.close()
        first, again = map(statistics.median, costs)
        return first, again

    async def _look_back(self, place: Place) -> None:
        """Time reports by the command, and the writing of records into the book."""
        ran = place.launch.command
        options = ran[ran.index("--config") : ran.index("--host")]
        for name, asked in {
            "usage --key … --since 7d, s": ("--key", "k0000001", "--since", "7d"),
            "usage --by key --since 7d, s": ("--by", "key", "--since", "7d"),
            "usage --by key, s": ("--by", "key"),
        }.items():
            command = (ran[0], "usage", *asked, "--format", "csv", *options)
            place.note(name, await asyncio.to_thread(_time, command))
        place.note("add_entries, µs per record", await _add_entries(place.data_dir))


async def _cpu_seconds_at_rest(pid: int) -> float:
    """Return what all processes have used once they do no more than look whether there is work."""
    used = proc.cpu_seconds(pid)
    while True:
        await asyncio.sleep(_REST_SECONDS)
        before, used = used, proc.cpu_seconds(pid)
        if used - before < _RESTING_LOAD * _REST_SECONDS:
            return used


def _models_request(target: Target, key: str) -> bytes:
    return (
        f"GET /v1/models HTTP/1.1\r\nhost: {target.host}\r\nauthorization: Bearer {key}\r\n\r\n"
    ).encode()


def _time(command: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


async def _add_entries(data_dir: Path) -> float:
    """Return the microseconds that a record takes from here into the book."""
    now_ms = int(time.time() * 1000)
    entries = [
        Entry(at_ms=now_ms + at, shard=at % 64, entry=now_ms << 20 | at, record=_record(at))
        for at in range(_ENTRIES)
    ]
    book = await Book.open(data_dir)
    began = time.perf_counter()
    for start in range(0, _ENTRIES, _AT_ONCE):
        await book.add_entries(entries[start : start + _AT_ONCE])
    seconds = time.perf_counter() - began
    await book.aclose()
    return seconds / _ENTRIES * 1e6


def _record(at: int) -> Record:
    return Record(
        request_id=uuid7(),
        key_id=f"k{at * 7919 % 1_000_000:07}",
        model="bench",
        target="bench",
        upstream="bench",
        task="chat",
        input_tokens=24,
        output_tokens=16,
    )


def _table(places: Sequence[Place]) -> str:
    """Return the medians of all figures, a line each."""
    lines = [f"{'':32}" + "".join(f"{place.name:>12}" for place in places) + f"{'ratio':>8}"]
    for name in places[0].figures:
        values = [statistics.median(place.figures[name]) for place in places]
        cells = "".join(f"{value:>12,.2f}" for value in values)
        lines.append(f"{name:32}{cells}{values[-1] / values[0]:>8.2f}")
    sizes = [(place.data_dir / "book.sqlite3").stat().st_size / 1e9 for place in places]
    lines.append(f"{'the book, GB':32}" + "".join(f"{size:>12.2f}" for size in sizes))
    lines.append(f"{'filling it, s':32}" + "".join(f"{one.fill_seconds:>12.1f}" for one in places))
    return "\n".join(lines)


def _tell(line: str) -> None:
    """Print progress to where it does not mix with the result."""
    print(line, file=sys.stderr, flush=True)


def _pin() -> int | None:
    """Keep this process on the first core and return the gateway's, None if there is one core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return None
    os.sched_setaffinity(0, cores[:1])
    return cores[1]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of load in each round")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    return parser.parse_args()


def main() -> int:
    """Run. Returns 1 if the disk has no room for the book."""
    arguments = _arguments()
    if shutil.disk_usage(arguments.folder).free < 2 * arguments.rows * _BYTES_PER_ROW:
        _tell(f"{arguments.folder}: expected {2 * arguments.rows * _BYTES_PER_ROW / 1e9:.0f} GB")
        return 1
    core = _pin()
    with tempfile.TemporaryDirectory(prefix="scale-", dir=arguments.folder) as scratch:
        uvloop.run(Scale(arguments, Path(scratch), core).run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
