"""A PostgreSQL server of the tests' own, on a unix socket and a free port of 127.0.0.1."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pg8000.dbapi
import pytest

from tests.patience import PATIENCE_SECONDS
from tests.ports import free_port

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_QUICK = {
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "64MB",
    "max_connections": "60",
}


def _find_programs() -> Path | None:
    """Return the directory of `initdb` and `postgres`, None if there is no server here."""
    on_path = shutil.which("postgres")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    candidates += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in candidates:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    return None


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run an empty server meanwhile. Where none is installed the test is skipped."""
    programs = _find_programs()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed: apt-get install postgresql")
    # Not under pytest's directory, which the server's user may not enter.
    with tempfile.TemporaryDirectory(prefix="dragoman-postgres-") as folder:
        server = PostgresServer(programs, Path(folder))
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()


@dataclass
class PostgresServer:
    """Its files are in `folder`, which must be reachable for the user it runs as."""

    programs: Path
    folder: Path
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    certificate: Path | None = None
    _numbers: count[int] = field(default_factory=count)

    def create(self) -> None:
        """Make the files of a new server."""
        if (user := _user()) is not None:
            # PostgreSQL refuses to run as root.
            shutil.chown(self.folder, user)
        command = (str(self.programs / "initdb"), "--auth=trust", "--username=dragoman")
        quick = ("--no-sync", "--locale=C", "--encoding=UTF8", "--pgdata", str(self._data))
        subprocess.run(
            [*command, *quick],
            check=True,
            user=user,
            cwd=self.folder,
            env=_env(),
            stdout=subprocess.DEVNULL,
        )
        self.port = free_port()
        self.certificate = self._make_certificate()

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = {
            **_QUICK,
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(self.folder),
            "ssl": "on" if self.certificate else "off",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.programs / "postgres", "-D", self._data, *settings],
                user=_user(),
                cwd=self.folder,
                env=_env(),
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C for the tests is not for the server
                preexec_fn=_tie_to_parent(),
            )
        self._wait_until_it_answers()

    def stop(self) -> None:
        """End the server at once; what was committed stays."""
        self._end(signal.SIGQUIT)

    def pause(self) -> None:
        """Let the server accept connections and do nothing else."""
        for pid in self._pids():
            os.kill(pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        for pid in self._pids():
            os.kill(pid, signal.SIGCONT)

    def create_database(self, template: str = "template1") -> str:
        """Return the name of a new database, a copy of `template`."""
        name = f"book{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    def drop_database(self, name: str) -> None:
        """Remove a database, whoever still uses it."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def url(self, database: str, *, options: str = "") -> str:
        """Return the URL of a database."""
        return f"postgresql://dragoman:hunter2@127.0.0.1:{self.port}/{database}{options}"

    def execute(self, sql: str, *, database: str = "postgres") -> list[Any]:
        """Run one statement on a connection of its own and return its rows."""
        db = pg8000.dbapi.connect(
            "dragoman",
            host="127.0.0.1",
            port=self.port,
            database=database,
            ssl_context=False,
            timeout=PATIENCE_SECONDS,
        )
        try:
            db.autocommit = True
            cursor = db.cursor()
            cursor.execute(sql)
            return list(cursor.fetchall()) if cursor.description else []
        finally:
            db.close()

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _make_certificate(self) -> Path | None:
        """Return a certificate for `localhost` alone, None without OpenSSL's program."""
        if shutil.which("openssl") is None:
            return None
        key, certificate = self._data / "server.key", self._data / "server.crt"
        command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
        names = ("-addext", "subjectAltName=DNS:localhost")
        files = ("-keyout", key, "-out", certificate)
        subprocess.run(
            [*command.split(), *names, *files], check=True, user=_user(), stderr=subprocess.DEVNULL
        )
        key.chmod(0o600)
        return certificate

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            assert self.process is not None
            try:
                self.execute("SELECT 1")
                return
            except pg8000.dbapi.Error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((self.folder / "server.log").read_text()) from None
                time.sleep(0.02)

    def _end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(PATIENCE_SECONDS)
            self.process = None

    def _pids(self) -> list[int]:
        assert self.process is not None
        main = self.process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        return [main, *map(int, children)]


def _user() -> str | None:
    """Return who the server is to run as, None for whoever runs the tests."""
    if os.getuid() != 0:
        return None
    import pwd

    known = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"


def _tie_to_parent() -> Callable[[], None]:
    """Return what lets the server end when the tests are killed: it runs after the fork."""
    prctl = ctypes.CDLL(None).prctl  # looked up here, as an import after a fork may hang

    def tie() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGQUIT), 0, 0, 0)

    return tie


def _env() -> dict[str, str]:
    return {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}
