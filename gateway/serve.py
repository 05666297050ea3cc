"""`dragoman serve`: the parent process, which owns the stores, the local models and the workers."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from gateway import __version__, embedded
from gateway.assignment import Assignment
from gateway.config import Settings, Store
from gateway.generations import Generations, Site
from gateway.logs.diagnostics import configure_logging
from gateway.notifier import Notifier
from gateway.roll import Roll
from gateway.source import Source
from gateway.supervisor import Child, Supervisor

if TYPE_CHECKING:
    from gateway.keys import FirstRun

_BACKLOG = 2048
_LOCAL_DRAIN_SECONDS = 2.0
_START_SECONDS = 60.0


class _Start:
    """A pipe on which the workers wait. Its end, when it is closed here, is their beginning."""

    def __init__(self) -> None:
        self.fd, self._write_fd = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        self.give()

    def give(self) -> None:
        """Let the workers begin. Successors of theirs do not wait."""
        if self._write_fd >= 0:
            os.close(self._write_fd)
        self._write_fd = -1


async def serve(config: Path | None, data_dir: Path, *, overrides: Mapping[str, str | int]) -> int:
    """Run until SIGTERM or Ctrl-C and return the exit code. SIGHUP reloads the configuration.

    Raises ConfigError, EmbeddedError, BookError and OSError for what keeps it from starting.
    """
    began = time.perf_counter()
    source = Source(config=config, overrides=overrides)
    settings = source.read()
    configure_logging(settings.logs)
    state_url, cache_url = _store_urls(settings.store, data_dir)
    supervisor, notifier, reload = Supervisor(), Notifier.from_environment(), asyncio.Event()
    _hear_hangups(reload)
    async with AsyncExitStack() as closing:
        listener = closing.enter_context(_listen(settings.server.host, settings.server.port))
        local = closing.enter_context(_listen("127.0.0.1", 0))
        start = closing.enter_context(_Start())
        assignment = Assignment(
            fd=listener.fileno(),
            start_fd=start.fd,
            data_dir=str(data_dir),
            overrides=dict(overrides),
            local_url=_url(local),
            state_url=state_url,
            cache_url=cache_url,
        )
        site = Site.below(data_dir, source=source, assignment=assignment)
        generations = Generations(supervisor, site, notifier)
        end = partial(_begin_end, listener, generations, notifier)
        ending = asyncio.create_task(supervisor.run(on_signal=end))
        url = _url(listener)
        await asyncio.sleep(0)  # now a signal is heard
        stores = await _start_stores(settings.store, data_dir, closing)
        site.clear()
        closing.push_async_callback(generations.aclose)
        closing.push_async_callback(supervisor.stop)
        if settings.is_embedded:
            await supervisor.start(_local_child(local))
        first = await generations.start(settings)
        made = await _keep_house(settings, data_dir, state_url, closing)
        closing.push_async_callback(supervisor.stop)
        start.give()
        if await _answers(first.roll, ending):
            _announce(settings, url, stores, data_dir, seconds=time.perf_counter() - began)
            _show_keys(made)
            notifier.ready()
        if not ending.done():
            generations.follow(first, reload)
        return await ending


def _begin_end(listener: socket.socket, generations: Generations, notifier: Notifier) -> None:
    # Open here, the socket would go on to take connections that no worker accepts any more.
    listener.close()
    generations.freeze()
    notifier.stopping()


def _hear_hangups(reload: asyncio.Event) -> None:
    """Set `reload` at each SIGHUP, but end the process when it comes of a terminal that is gone."""
    had_terminal = os.isatty(0)

    def hear() -> None:
        if had_terminal and not os.isatty(0):
            signal.raise_signal(signal.SIGTERM)
        else:
            reload.set()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hear)


def _store_urls(store: Store, data_dir: Path) -> tuple[str, str]:
    if store.state and store.cache:
        return store.state, store.cache
    state, cache = embedded.urls(data_dir)
    return store.state or state, store.cache or cache


async def _start_stores(store: Store, data_dir: Path, closing: AsyncExitStack) -> str:
    """Start the embedded pair, unless both stores are configured; return what they are."""
    if store.state and store.cache:
        closing.enter_context(embedded.owned(data_dir))
        return "as configured"
    pair = await embedded.start(data_dir)
    closing.push_async_callback(pair.stop)
    server = pair.server
    return f"{server.name} {server.version} ({server.path})"


async def _keep_house(
    settings: Settings, data_dir: Path, state_url: str, closing: AsyncExitStack
) -> FirstRun | None:
    """Begin what the parent does beside; return the keys of the very first run."""
    # SQLAlchemy takes as long to load as a worker, so both load at the same time.
    from gateway.housekeeping import housekeeping

    return await closing.enter_async_context(housekeeping(settings, data_dir, state_url))


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        # create_server adds the address to `strerror`; a resolver's errors (< 0) have no other.
        number = exc.errno or 0
        reason = exc.strerror if number < 0 else os.strerror(number)
        raise OSError(f"cannot listen on {host}:{port}: {reason}") from None


def _local_child(listener: socket.socket) -> Child:
    return Child(
        name="local models",
        command=(sys.executable, "-m", "adapters.local", "--fd", str(listener.fileno())),
        pass_fds=(listener.fileno(),),
        drain_seconds=_LOCAL_DRAIN_SECONDS,
    )


async def _answers(roll: Roll, ending: asyncio.Task[int]) -> bool:
    """Wait until a worker serves; False if the end comes first."""
    serving = asyncio.create_task(roll.first())
    await asyncio.wait({serving, ending}, timeout=_START_SECONDS, return_when="FIRST_COMPLETED")
    serving.cancel()
    return serving.done() and not ending.done()


def _address(listener: socket.socket) -> tuple[str, int]:
    """Return where this process reaches `listener`, which may listen on all interfaces."""
    host, port = listener.getsockname()[:2]
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port


def _url(listener: socket.socket) -> str:
    host, port = _address(listener)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announce(settings: Settings, url: str, stores: str, data_dir: Path, *, seconds: float) -> None:
    upstreams = ", ".join(f"{one.name} ({one.dialect})" for one in settings.upstreams)
    workers = settings.server.workers
    print(
        f"Dragoman {__version__} listens on {url} ({workers} worker{'s'[: workers > 1]}, "
        f"ready after {seconds:.1f} s)\n"
        f"  base URL   {url}/v1\n"
        f"  docs       {url}/docs\n"
        f"  upstreams  {upstreams or 'local models on this machine'}\n"
        f"  stores     {stores}\n"
        f"  data       {data_dir}",
        flush=True,
    )


def _show_keys(made: FirstRun | None) -> None:
    if made:
        given = "DRAGOMAN_ADMIN_KEY" in os.environ
        print(
            "\nFirst run. These are shown once, so keep them:\n"
            f"  API key    {made.key.text}\n"
            f"  admin key  {'as in DRAGOMAN_ADMIN_KEY' if given else made.admin_key}",
            flush=True,
        )
