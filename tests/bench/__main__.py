"""Measure Dragoman, and with `PEERS=1` others beside it, on this machine in one run.

    python -m tests.bench [--quick] [--only NAME]… [--rounds N] [--json FILE]

Rows take turns, round after round (A, B, A, B, …), each started anew, so that a slow minute
of the machine hits all of them alike. The upstream and the load are on core 0, the gateway and
all it starts are on core 1. The budgets are judged by ratios of one run: absolute figures say
something about this machine, and about who else was using it.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import msgspec
import uvloop

from tests.bench import gateways, report
from tests.bench.client import WrongAnswer
from tests.bench.gateways import Launch, Recipe, Site, Unavailable
from tests.bench.load import Workload
from tests.bench.measure import Bench, Miscounted, Plan, Visit
from tests.bench.upstream import Upstream

_ROOT = Path(__file__).parents[2]
_TOKENIZER = _ROOT / "adapters" / "local" / "tokenizers" / "SmolLM2-135M-Instruct"
_TOKENS_PER_SECOND = 100.0
_FAILURES = (Unavailable, Miscounted, WrongAnswer, OSError, TimeoutError)


def _plan(seconds: float) -> Plan:
    """Return workloads of `seconds` each: 32 connections, or 50 streams of one second."""
    whole = Workload(tokens=16, connections=32, seconds=seconds)
    streams = Workload(tokens=100, connections=50, seconds=seconds, stream=True, ramp_seconds=1.0)
    warm_up = Workload(tokens=16, connections=32, seconds=1.0, count=2_000)
    return Plan(warm_up=warm_up, whole=whole, hits=whole, streams=streams)


class _Program:
    """One run of the bench: what was asked for, and what has been measured so far."""

    def __init__(self, arguments: argparse.Namespace, scratch: Path, core: int | None) -> None:
        self._arguments = arguments
        self._scratch = scratch
        self._upstream = Upstream(_TOKENS_PER_SECOND)
        prompts = (f"Which fruit is number {number}?" for number in itertools.count(1))
        self._bench = Bench(self._upstream, prompts, core)
        self._visits: dict[str, list[Visit]] = {}
        self._direct_seconds: list[float] = []
        self._failures: dict[str, Exception] = {}

    async def run(self) -> bool:
        """Measure every row that was asked for; return whether all answers were right.

        That a gateway is not to be had here is told, but wrong only if there is none at all.
        """
        await self._upstream.start()
        recipes = _recipes(self._arguments.only)
        try:
            launches = self._launches(recipes)
            await self._rounds(launches)
        finally:
            self._upstream.close()
        missing = [isinstance(error, Unavailable) for error in self._failures.values()]
        return all(missing) and len(missing) < len(recipes)

    def _launches(self, recipes: Mapping[str, Recipe]) -> dict[str, Launch]:
        """Set up what can be set up here; the rest is told with its reason."""
        launches = {}
        for name, recipe in recipes.items():
            scratch = self._scratch / name
            scratch.mkdir()
            site = Site(
                scratch=scratch,
                peers=_ROOT / ".cache" / "bench",
                upstream_port=self._upstream.port,
                tokenizer=self._arguments.tokenizer,
            )
            try:
                launches[name] = recipe(site)
            except Unavailable as error:
                self._fail(name, error)
        return launches

    async def _rounds(self, launches: Mapping[str, Launch]) -> None:
        plan = _plan(self._arguments.seconds)
        for number in range(1, self._arguments.rounds + 1) if launches else ():
            _tell(f"round {number} of {self._arguments.rounds}")
            self._direct_seconds += (await self._bench.direct(plan.streams)).first_token_seconds
            for name, launch in launches.items():
                if name not in self._failures:
                    await self._visit(name, launch, plan)
        self._report()

    async def _visit(self, name: str, launch: Launch, plan: Plan) -> None:
        try:
            visit = await self._bench.visit(launch, plan, log=self._scratch / f"{name}.log")
        except _FAILURES as error:
            self._fail(name, error)
            return
        self._visits.setdefault(name, []).append(visit)
        _tell(f"  {name}: {visit.request_us:.0f} µs/request, {visit.token_us:.1f} µs/token")

    def _report(self) -> None:
        rows = {
            name: report.row(visits, direct_first_token_seconds=self._direct_seconds)
            for name, visits in self._visits.items()
        }
        if rows:
            print(f"\n{report.table(rows)}\n")
        if own := {name: figures for name, figures in rows.items() if name in gateways.OWN}:
            print(report.verdicts(own, smg=rows.get(gateways.SMG)))
        if self._arguments.json:
            self._arguments.json.write_bytes(self._json(rows))

    def _json(self, rows: Mapping[str, report.Row]) -> bytes:
        """Return the rows, each round's figures and what failed."""
        lists = ("latency_seconds", "first_token_seconds")
        rounds = {
            name: [
                {key: value for key, value in asdict(visit).items() if key not in lists}
                for visit in visits
            ]
            for name, visits in self._visits.items()
        }
        failures = {name: str(error) for name, error in self._failures.items()}
        found = {"rows": rows, "rounds": rounds, "failures": failures}
        return msgspec.json.format(msgspec.json.encode(found))

    def _fail(self, name: str, error: Exception) -> None:
        self._failures[name] = error
        _tell(f"  {name}: {error or type(error).__name__}")


def _recipes(only: list[str]) -> dict[str, Recipe]:
    peers = gateways.PEERS if os.environ.get("PEERS") == "1" else {}
    everything = {**gateways.OWN, **gateways.PEERS}
    return {name: everything[name] for name in only} or {**gateways.OWN, **peers}


def _tell(line: str) -> None:
    """Print progress to where it does not mix with the result."""
    print(line, file=sys.stderr, flush=True)


def _pin() -> int | None:
    """Keep this process on the first core and return the gateway's, None if there is one core."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        _tell("one core: nothing is pinned, and the load shares it with the gateway")
        return None
    os.sched_setaffinity(0, cores[:1])
    return cores[1]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    names = (*gateways.OWN, *gateways.PEERS)
    parser.add_argument("--only", action="append", default=[], choices=names, help="repeatable")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each workload")
    parser.add_argument("--quick", action="store_true", help="one round of 1.5 seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--tokenizer", type=Path, metavar="FOLDER", default=_TOKENIZER)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.seconds = 1, 1.5
    return arguments


def main() -> int:
    """Run the bench. Returns 1 when an answer was wrong or no gateway could be had."""
    arguments = _arguments()
    core = _pin()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        program = _Program(arguments, Path(scratch), core)
        try:
            return 0 if uvloop.run(program.run()) else 1
        except KeyboardInterrupt:
            return 130


if __name__ == "__main__":
    sys.exit(main())
