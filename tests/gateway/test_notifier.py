import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.notifier import Notifier


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.setblocking(False)
        yield listening


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_states_are_sent_as_systemd_has_them(
    manager: socket.socket, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    manager.bind(path if kind == "path" else "\0" + path)
    monkeypatch.setenv("NOTIFY_SOCKET", path if kind == "path" else "@" + path)
    notifier = Notifier.from_environment()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000

    notifier.ready()
    notifier.reloading()
    notifier.stopping()

    assert manager.recv(99) == b"READY=1"
    first, _, second = manager.recv(99).partition(b"\n")
    assert (first, second[:15]) == (b"RELOADING=1", b"MONOTONIC_USEC=")
    assert before <= int(second[15:]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert manager.recv(99) == b"STOPPING=1"


def test_nobody_is_told_without_a_service_manager(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    Notifier.from_environment().ready()

    assert caplog.messages == []


def test_manager_that_is_gone_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier(str(tmp_path / "nobody")).ready()

    [message] = caplog.messages
    assert message.startswith("the service manager does not hear READY: ")
