"""The systemd unit: the parent is told, and has time to drain; what it may write is its own."""

from __future__ import annotations

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from gateway.config import Server
from tests.deploy.folder import SETTLING_SECONDS, read, without_comments


def unit() -> dict[str, list[str]]:
    """Return the settings of the unit: systemd lets some of them stand several times."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in without_comments(read("systemd/dragoman.service")).splitlines():
        name, is_setting, value = line.partition("=")
        if is_setting:
            found[name].append(value)
    return found


def test_it_is_told_when_the_gateway_is_ready_and_how_to_reload_it() -> None:
    assert unit()["Type"] == ["notify"]
    assert unit()["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def test_the_parent_alone_is_told_to_stop_and_has_time_to_drain() -> None:
    assert unit()["KillMode"] == ["mixed"]
    assert float(unit()["TimeoutStopSec"][0]) > Server().drain_seconds + SETTLING_SECONDS


def test_what_it_writes_lies_in_its_own_folder() -> None:
    [folder] = unit()["StateDirectory"]
    assert unit()["ProtectSystem"] == ["strict"]
    variables = dict(one.split("=") for one in unit()["Environment"])
    assert variables["DRAGOMAN_DATA_DIR"] == f"/var/lib/{folder}"
    assert variables["HF_HOME"].startswith(f"/var/lib/{folder}/")


def test_it_gains_no_rights() -> None:
    assert unit()["NoNewPrivileges"] == ["yes"]
    assert unit()["CapabilityBoundingSet"] == [""]
    assert unit()["DynamicUser"] == ["yes"]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_itself_agrees(tmp_path: Path) -> None:
    path = tmp_path / "dragoman.service"
    # It looks whether the program is there.
    path.write_text(
        read("systemd/dragoman.service").replace("/opt/dragoman/bin/dragoman", "/bin/true")
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", path], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
