"""The roll of a generation: which of its workers serve."""

from __future__ import annotations

import asyncio
import os


class WorkerLost(Exception):
    """A worker ended before all of its generation served."""


class Roll:
    """A pipe to which each of `workers` writes one byte, its number less one, when it serves.

    Successors write to it too, and are heard without effect.
    """

    def __init__(self, workers: int) -> None:
        self._read_fd, self.fd = os.pipe()
        self._missing = set(range(1, workers + 1))
        self._lost = ""
        self._first = asyncio.Event()
        self._decided = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._read_fd, self._hear)

    async def first(self) -> None:
        """Wait until one worker serves."""
        await self._first.wait()

    async def complete(self) -> None:
        """Wait until all workers serve. Raises WorkerLost if one ends before that."""
        await self._decided.wait()
        if self._lost:
            raise WorkerLost(self._lost)

    def has_served(self, worker: int) -> bool:
        """Tell whether a worker, or one before it of that number, has served."""
        return worker not in self._missing

    def lose(self, worker: int, exit_code: int) -> None:
        """Note that a worker has ended, which is nothing new once all have served."""
        if not self._decided.is_set():
            self._lost = f"worker {worker} ended with code {exit_code} before all served"
            self._decided.set()

    def close(self) -> None:
        """Close the pipe, when no worker is left."""
        asyncio.get_running_loop().remove_reader(self._read_fd)
        os.close(self._read_fd)
        os.close(self.fd)

    def _hear(self) -> None:
        self._missing -= {told + 1 for told in os.read(self._read_fd, 256)}
        self._first.set()
        if not self._missing:
            self._decided.set()
