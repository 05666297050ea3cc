"""A real cluster on this machine: masters with all slots between them, to be killed and changed."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from gateway.slots import SLOTS, slot_of
from tests.gateway.state_server import program
from tests.patience import PATIENCE_SECONDS
from tests.ports import free_port

HOST = "127.0.0.1"
OPTIONS = (
    *("--bind", HOST, "--save", "", "--loglevel", "warning", "--repl-diskless-sync-delay", "0"),
    *("--cluster-enabled", "yes", "--cluster-node-timeout", "1000"),
    *("--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"),
    *("--cluster-allow-replica-migration", "no"),
)


class Member:
    """One server of a cluster. It keeps its place in it, but no data, in `folder`."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port, self.bus_port = free_port(), free_port()
        self.url = f"redis://{HOST}:{self.port}"
        self.log = folder / "log"
        ports = ("--port", str(self.port), "--cluster-port", str(self.bus_port))
        folder.mkdir()
        self._command = (program, *ports, *OPTIONS, "--dir", str(folder))
        self.start()
        self.id = str(self.ask("CLUSTER", "MYID"))

    def start(self) -> None:
        """Return when it answers; also for another time after `kill`."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log)
        until(lambda: self.ask("PING"))

    def kill(self) -> None:
        """End it at once; the others find out."""
        self.process.kill()
        self.process.wait()

    def ask(self, *command: Any) -> Any:
        """Return the reply to a command. Raises RedisError."""
        with closing(Redis(host=HOST, port=self.port, decode_responses=True)) as client:
            return client.execute_command(*command)

    def slots(self) -> list[tuple[int, int, int]]:
        """Return the first and the last slot of each range, and the port of its master."""
        ranges = self.ask("CLUSTER", "SLOTS")
        return sorted((int(first), int(last), int(at[1])) for first, last, at, *_ in ranges)


class Cluster:
    """Members in the order of their start; the first ones were masters at the beginning.

    `url` is what a gateway is told. A key stands for its slot, and all that is in it.
    """

    def __init__(self, program: str, folder: Path, *, masters: int = 3) -> None:
        """Return when so many masters agree on who has which slots."""
        self.members: list[Member] = []
        self._program = program
        self._folder = folder
        for _ in range(masters):
            self._start()
        bounds = pairwise(SLOTS * number // masters for number in range(masters + 1))
        for epoch, (member, (first, end)) in enumerate(zip(self.members, bounds, strict=True), 1):
            member.ask("CLUSTER", "SET-CONFIG-EPOCH", epoch)
            member.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        self._introduce(self.members)
        self.wait_until_well()

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(f'{HOST}:{one.port}' for one in self.members)}"

    @property
    def urls(self) -> list[str]:
        """Where each member listens for itself."""
        return [one.url for one in self.members]

    @property
    def pids(self) -> list[int]:
        return [one.process.pid for one in self.members]

    @property
    def living(self) -> list[Member]:
        return [one for one in self.members if one.process.poll() is None]

    @property
    def masters(self) -> list[Member]:
        """The members that have slots, as the first living one sees it."""
        ports = {port for *_, port in self.living[0].slots()}
        return [one for one in self.members if one.port in ports]

    def wait_until_well(self) -> None:
        """Return once all living members agree, and living masters have all slots."""
        until(self._is_well)

    def owner(self, key: str) -> Member:
        """Return the master of a key, as the first living member sees it."""
        slot = slot_of(key)
        [owner] = [port for first, last, port in self.living[0].slots() if first <= slot <= last]
        return next(one for one in self.members if one.port == owner)

    def add_master(self) -> Member:
        """Start a member that has no slots yet, and return it once all know it."""
        member = self._start()
        self._introduce([member])
        self.wait_until_well()  # a master takes two seconds to trust what it was told
        return member

    def add_replica(self, master: Member) -> Member:
        """Start a replica and return it once it has what its master has."""
        member = self._start()
        self._introduce([member])
        member.ask("CLUSTER", "REPLICATE", master.id)
        until(lambda: member.ask("INFO", "replication").get("master_link_status") == "up")
        until(lambda: all(_is_slave(member, one) for one in self.living))
        self.wait_until_well()
        return member

    def remove(self, member: Member) -> None:
        """End a member, which has no slots any more, and let the others forget it."""
        if member in self.living:
            member.kill()
        self.members.remove(member)
        for other in self.living:
            other.ask("CLUSTER", "FORGET", member.id)

    def fail_over(self, replica: Member) -> None:
        """Let a replica take its master's place, while that lives."""
        replica.ask("CLUSTER", "FAILOVER")
        until(lambda: replica in self.masters)
        self.wait_until_well()

    def begin_move(self, key: str, to: Member) -> None:
        """Begin to move a slot to another master."""
        slot, source = slot_of(key), self.owner(key)
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)

    def move_keys(self, key: str, to: Member) -> int:
        """Move some keys of a slot; return how many there were."""
        slot, source = slot_of(key), self.owner(key)
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 100)
        if keys:
            source.ask("MIGRATE", HOST, to.port, "", 0, 5000, "KEYS", *keys)
        return len(keys)

    def end_move(self, key: str, to: Member) -> None:
        """Give a slot, whose keys have all been moved, to its new master."""
        slot, source = slot_of(key), self.owner(key)
        for member in (to, source):
            member.ask("CLUSTER", "SETSLOT", slot, "NODE", to.id)
        self.wait_until_well()

    def move_slot(self, key: str, to: Member) -> None:
        """Move a slot and all that is in it to another master."""
        self.begin_move(key, to)
        while self.move_keys(key, to):
            pass
        self.end_move(key, to)

    def stop(self) -> None:
        for member in self.living:
            member.kill()

    def _start(self) -> Member:
        member = Member(self._program, self._folder / str(len(list(self._folder.iterdir()))))
        self.members.append(member)
        return member

    def _introduce(self, members: Sequence[Member]) -> None:
        for member in members:
            for other in self.living:  # told by one only, they take a second to tell each other
                other.ask("CLUSTER", "MEET", HOST, member.port, member.bus_port)
        until(lambda: all(self._knows_all(one) for one in self.living))

    def _knows_all(self, member: Member) -> bool:
        told = str(member.ask("CLUSTER", "NODES"))
        return all(one.id in told for one in self.living) and "handshake" not in told

    def _is_well(self) -> bool:
        maps = [one.slots() for one in self.living]
        states = [one.ask("CLUSTER", "INFO") for one in self.living]
        ports = {one.port for one in self.living}
        covered = sum(last + 1 - first for first, last, port in maps[0] if port in ports)
        agree = all(told == maps[0] for told in maps)
        return agree and covered == SLOTS and all("cluster_state:ok" in one for one in states)


def until(condition: Callable[[], object]) -> None:
    """Return once a condition holds. A server that does not answer does not fulfil it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with suppress(RedisError):
            if condition():
                return
        time.sleep(0.01)
    raise TimeoutError


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three masters. A test leaves them as it has found them, but for what they keep."""
    with own_cluster(tmp_path_factory.mktemp("cluster")) as formed:
        yield formed


@pytest.fixture
def harmed(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster of all tests, whose members may be killed: they come back, with their slots."""
    yield cluster
    for member in cluster.members:
        if member.process.poll() is None:
            member.process.send_signal(signal.SIGCONT)
        else:
            member.start()
    cluster.wait_until_well()


@contextmanager
def own_cluster(folder: Path, *, kind: str = "valkey") -> Iterator[Cluster]:
    """Yield three masters of one's own, to be killed."""
    formed = Cluster(program(kind), folder)
    try:
        yield formed
    finally:
        formed.stop()


def _is_slave(replica: Member, asked: Member) -> bool:
    lines = str(asked.ask("CLUSTER", "NODES")).splitlines()
    return any(line.startswith(replica.id) and "slave" in line for line in lines)
