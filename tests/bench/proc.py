"""What a process and everything it started have used, read from `/proc` (see proc(5)).

A process belongs to a tree when its parent does, or when its session is that of one that does:
a helper that was forked twice has lost its parent but, as a rule, not its session.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the tree. `cpu_seconds` includes the children that it has reaped."""

    pid: int
    parent: int
    session: int
    name: str
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory in MiB; `pss_mib` counts a page shared by n processes as 1/n."""

    pid: int
    name: str
    rss_mib: float
    pss_mib: float


def tree(pid: int) -> list[Process]:
    """Return `pid` and what descends from it, `pid` first; empty when it is gone."""
    everything = [process for entry in _PROC.glob("[0-9]*") if (process := _read(int(entry.name)))]
    members = {process.pid: process for process in everything if process.pid == pid}
    grown = True
    while grown:
        sessions = {process.session for process in members.values()} - {os.getsid(0)}
        found = {
            process.pid: process
            for process in everything
            if process.pid not in members
            and (process.parent in members or process.session in sessions)
        }
        members |= found
        grown = bool(found)
    return list(members.values())


def cpu_seconds(pid: int) -> float:
    """Return user and system time of the whole tree; the clock's step is 10 ms on Linux."""
    return sum(process.cpu_seconds for process in tree(pid))


def memory(pid: int) -> list[Memory]:
    """Return the memory of each process of the tree, the largest first."""
    found = [_memory(process) for process in tree(pid)]
    return sorted((entry for entry in found if entry), key=lambda entry: -entry.rss_mib)


def _read(pid: int) -> Process | None:
    """Return the process, or None when it ended meanwhile."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in brackets and may itself hold brackets and spaces.
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    if fields[0] == "Z":
        return None
    ticks = sum(int(value) for value in fields[11:15])
    return Process(pid, int(fields[1]), int(fields[3]), name, ticks / _TICKS_PER_SECOND)


def _memory(process: Process) -> Memory | None:
    try:
        lines = (_PROC / str(process.pid) / "smaps_rollup").read_text().splitlines()[1:]
    except (FileNotFoundError, ProcessLookupError):
        return None
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return Memory(process.pid, process.name, kib["Rss"] / 1024, kib["Pss"] / 1024)
