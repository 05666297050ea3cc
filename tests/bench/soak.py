"""Let two workers answer 100,000 requests of every kind, then count what is left behind.

    python -m tests.bench.soak [--requests N] [--workers N]

Of ten requests four are plain, two are streamed, two come again (so the cache has them), one is
refused by a limit, and one client leaves in the middle of its stream. While they run the memory of
each worker is sampled; before and after, with no client connected, its open files, its sockets and
its tasks. At the end the ledger must have each admitted request once, and agree with the counters.
Exits 1 if it does not, or if anything was left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter

import httpx
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from tests.bench import gateways, proc
from tests.bench.client import Connection, Target, tokens_answered
from tests.bench.gateways import Launch, Site
from tests.bench.running import Running, running
from tests.bench.upstream import Upstream

Command = Callable[..., Awaitable[str]]
"""The `dragoman` command: words in, what it prints out."""

_ORDER = ("plain", "streamed", "cached", "plain", "leaving", "plain", "streamed", "cached", "plain")
_KINDS = (*_ORDER, "refused")
_CONNECTIONS = 32
_TOKENS = 16
_REPEATED_PROMPTS = 20
_WARM_UP = 0.05  # of the requests: templates, caches and pools are filled by then
_SAMPLES = 40
_TOKENS_PER_SECOND = 2_000.0
_REST_SECONDS = 20.0
_MOST_GROWTH_MIB = 5.0  # per 100,000 requests


@dataclass(frozen=True, slots=True)
class Holding:
    """What one worker holds open; sockets are files too."""

    files: int
    sockets: int


@dataclass(slots=True)
class Findings:
    """What came of a run. `memory_mib`: of each worker, by how many requests had been answered."""

    requests: Counter[str] = field(default_factory=Counter)
    seconds: float = 0
    memory_mib: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    before: Mapping[int, Holding] = field(default_factory=dict)
    after: Mapping[int, Holding] = field(default_factory=dict)
    tasks_before: int = 0
    tasks_after: int = 0
    recorded: int = 0
    leases: int = 0
    disagreement: str = ""

    @property
    def admitted(self) -> int:
        """How many requests the ledger is to have."""
        return self.requests.total() - self.requests["refused"]

    def slope_mib(self, pid: int) -> float:
        """Return by how much a worker's memory grows in 100,000 requests, once it is warm."""
        samples = self.memory_mib[pid][len(self.memory_mib[pid]) // 5 :]
        return statistics.linear_regression(*zip(*samples, strict=True)).slope * 100_000

    def problems(self) -> list[str]:
        """Return what is not as it should be, in sentences."""
        found = [self.disagreement] if self.disagreement else []
        if self.recorded != self.admitted:
            found.append(f"{self.admitted} requests were admitted, {self.recorded} recorded")
        if self.leases:
            found.append(f"{self.leases} leases are open")
        if self.tasks_after > self.tasks_before:
            found.append(f"{self.tasks_before} tasks before, {self.tasks_after} after")
        for pid, was in self.before.items():
            now = self.after.get(pid)
            if now is None or now.files > was.files or now.sockets > was.sockets:
                found.append(f"worker {pid} held {was} before, {now} after")
            if self.slope_mib(pid) > _MOST_GROWTH_MIB:
                found.append(f"worker {pid} grows by {self.slope_mib(pid):.1f} MiB in 100,000")
        return found


class Soak:
    """One run over a gateway that serves. `small_key`: one that may ask once a day."""

    def __init__(
        self, gateway: Running, upstream: Upstream, *, small_key: str, requests: int
    ) -> None:
        self.findings = Findings()
        self._gateway = gateway
        self._upstream = upstream
        self._target = gateway.target
        self._small = replace(gateway.target, key=small_key)
        self._requests = requests
        self._numbers = count()

    async def prepare(self) -> None:
        """Spend the small key's only request, and wait until the ledger has all that was asked."""
        connection = await Connection.open(self._small)
        answer = await connection.exchange(self._small.request("one fruit", tokens=1))
        assert answer.startswith(b"HTTP/1.1 200"), answer[:300]
        connection.close()
        await self._at_rest(workers(self._gateway.pid))

    async def run(self) -> Findings:
        """Warm up, load, and look at what is left."""
        findings, pids = self.findings, workers(self._gateway.pid)
        await self._load(int(self._requests * _WARM_UP))
        findings.before, findings.tasks_before = await self._at_rest(pids)
        findings.memory_mib = {pid: [] for pid in pids}
        began = perf_counter()
        sampling = asyncio.create_task(self._sample())
        await self._load(self._requests)
        sampling.cancel()
        findings.seconds = perf_counter() - began
        findings.after, findings.tasks_after = await self._at_rest(pids)
        return findings

    async def _load(self, requests: int) -> None:
        numbers = iter(range(requests))
        async with asyncio.TaskGroup() as group:
            for _ in range(_CONNECTIONS):
                group.create_task(self._loop(numbers))

    async def _loop(self, numbers: Iterator[int]) -> None:
        connection = await Connection.open(self._target)
        for number in numbers:
            if connection.closed:
                connection = await Connection.open(self._target)
            kind = _KINDS[number % len(_KINDS)]
            await self._ask(kind, number, connection)
            self.findings.requests[kind] += 1
        connection.close()

    async def _ask(self, kind: str, number: int, connection: Connection) -> None:
        """Send one request. Raises AssertionError for an answer that is not as expected."""
        serial = number % _REPEATED_PROMPTS if kind == "cached" else next(self._numbers)
        target = self._small if kind == "refused" else self._target
        is_stream = kind in ("streamed", "leaving")
        request = target.request(f"{kind} fruit {serial}", tokens=_TOKENS, stream=is_stream)
        if kind == "leaving":
            await _leave(target, request)
            return
        answer = await connection.exchange(request)
        if kind == "refused":
            assert answer.startswith(b"HTTP/1.1 429"), answer[:300]
        else:
            assert tokens_answered(answer) == _TOKENS

    async def _sample(self) -> None:
        done, step = self.findings.requests, max(1, self._requests // _SAMPLES)
        start = due = done.total()
        while True:
            if done.total() >= due:
                due += step
                for process in proc.memory(self._gateway.pid):
                    if process.pid in self.findings.memory_mib:
                        sample = (done.total() - start, process.rss_mib)
                        self.findings.memory_mib[process.pid].append(sample)
            await asyncio.sleep(0.05)

    async def _at_rest(self, pids: list[int]) -> tuple[dict[int, Holding], int]:
        """Return what the workers hold, and their tasks, once that stops changing.

        Connections that they keep for the next request are closed before.
        """
        self._upstream.hang_up()
        last: tuple[dict[int, Holding], int] | None = None
        deadline = perf_counter() + _REST_SECONDS
        while True:
            await asyncio.sleep(1.5)  # the gauges are set once a second
            figures = await self._figures()
            now = {pid: holding(pid) for pid in pids}, int(figures["dragoman_tasks"])
            self.findings.leases = int(figures["dragoman_leases_open"])
            waiting = figures["dragoman_ledger_lag_records"] + self.findings.leases
            if (now == last and not waiting) or perf_counter() > deadline:
                return now
            last = now

    async def _figures(self) -> Counter[str]:
        """Return the metrics by name, each summed over its labels."""
        url = f"http://{self._target.host}:{self._target.port}/metrics"
        async with httpx.AsyncClient() as client:
            text = (await client.get(url)).text
        figures: Counter[str] = Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                figures[sample.name] += sample.value
        return figures


async def _leave(target: Target, request: bytes) -> None:
    """Hang up after the first token of a stream."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    writer.write(request)
    head = await reader.readuntil(b"data:")
    writer.transport.abort()
    assert head.startswith(b"HTTP/1.1 200"), head[:300]


def workers(pid: int) -> list[int]:
    """Return the workers among the children of the process `pid`."""
    return [
        child.pid
        for child in proc.tree(pid)
        if b"gateway.worker" in Path(f"/proc/{child.pid}/cmdline").read_bytes()
    ]


def holding(pid: int) -> Holding:
    """Return what a process holds open."""
    names = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it has just been closed
            names.append(str(entry.readlink()))
    sockets = sum(name.startswith("socket:") for name in names)
    return Holding(files=len(names), sockets=sockets)


async def soak(folder: Path, *, requests: int, processes: int) -> Findings:
    """Run a gateway in `folder`, which is empty, and return what came of so many requests."""
    upstream = Upstream(_TOKENS_PER_SECOND)
    await upstream.start()
    site = Site(scratch=folder, peers=folder, upstream_port=upstream.port, tokenizer=folder)
    launch = gateways.dragoman_openai(site)
    launch = replace(
        launch,
        command=(*launch.command[:-1], str(processes)),
        environment={"DRAGOMAN__LOGS__ACCESS": "false"},
    )
    dragoman = partial(_dragoman, launch)
    try:
        async with running(launch, log=folder / "log", core=None) as gateway:
            return await _observed(gateway, upstream, dragoman, requests)
    finally:
        upstream.close()


async def _observed(
    gateway: Running, upstream: Upstream, dragoman: Command, requests: int
) -> Findings:
    made = await dragoman("keys", "create", "--name", "s", "--requests-per-day", "1", "--json")
    run = Soak(gateway, upstream, small_key=json.loads(made)["key"], requests=requests)
    await run.prepare()
    recorded = _recorded(await dragoman("usage", "--by", "status", "--json"))
    findings = await run.run()
    findings.recorded = _recorded(await dragoman("usage", "--by", "status", "--json")) - recorded
    findings.disagreement = " ".join(json.loads(await dragoman("usage", "--reconcile", "--json")))
    return findings


def _recorded(usage: str) -> int:
    return sum(int(row["requests"]) for row in json.loads(usage))


async def _dragoman(launch: Launch, *words: str) -> str:
    """Return what a command prints on standard output."""
    program, _, *rest = launch.command
    places = rest[:4]  # --config and --data-dir
    process = await asyncio.create_subprocess_exec(
        program, *words, *places, stdout=asyncio.subprocess.PIPE
    )
    printed, _ = await process.communicate()
    return printed.decode()


def report(findings: Findings) -> str:
    """Return the findings as text."""
    kinds = ", ".join(f"{number} {kind}" for kind, number in findings.requests.most_common())
    rate = findings.requests.total() / findings.seconds
    lines = [f"{kinds}: {findings.seconds:.0f} s, {rate:.0f} requests/s"]
    for pid, samples in findings.memory_mib.items():
        lines.append(
            f"worker {pid}: {samples[0][1]:.1f} to {samples[-1][1]:.1f} MiB, "
            f"{findings.slope_mib(pid):+.2f} MiB per 100,000 requests; "
            f"before {findings.before[pid]}, after {findings.after[pid]}"
        )
    lines.append(f"tasks: {findings.tasks_before} before, {findings.tasks_after} after")
    lines.append(f"ledger: {findings.recorded} of {findings.admitted} admitted requests")
    lines.append(f"leases: {findings.leases} open")
    return "\n".join([*lines, *(f"PROBLEM: {one}" for one in findings.problems())])


def main() -> int:
    """Run, print, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.soak")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        findings = uvloop.run(
            soak(Path(folder), requests=arguments.requests, processes=arguments.workers)
        )
    print(report(findings))
    return 1 if findings.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
