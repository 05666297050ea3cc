"""OpenAI's official SDKs as commands to run, the older ones installed into `.cache/` once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[2] / ".cache"
HERE = Path(__file__).parent
INSTALL_SECONDS = 180
OLD_PYTHON = "1.109.1"
NODE = "6.49.0"


@dataclass(frozen=True, slots=True)
class Sdk:
    """How to run the scenarios under one SDK: `command`, then base URL, key and `options`."""

    version: str
    command: Sequence[str]
    options: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)

    def run(self, base_url: str, key: str) -> list[str]:
        """Return the whole command."""
        return [*self.command, base_url, key, *self.options]


def python_sdk(kind: str) -> Sdk:
    """Return the SDK of this environment, the newest."""
    command = [sys.executable, str(HERE / "sdk_scenarios.py")]
    return Sdk(version("openai"), command, (kind,))


def old_python_sdk(kind: str) -> Sdk:
    """Return the last SDK of 1.x. Skips the test where it cannot be installed."""
    folder = CACHE / f"openai-python-{OLD_PYTHON}"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _install([*pip, f"openai=={OLD_PYTHON}", "--target"], folder)
    command = [sys.executable, str(HERE / "sdk_scenarios.py")]
    return Sdk(OLD_PYTHON, command, (kind,), {"PYTHONPATH": str(folder)})


def node_sdk() -> Sdk:
    """Return the last SDK that runs on Node 20. Skips the test without `node` and `npm`."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if not (node and npm):
        pytest.skip("the Node SDK needs 'node' and 'npm', which are not both here")
    folder = CACHE / f"openai-node-{NODE}"
    quiet = ["--silent", "--no-audit", "--no-fund", "--no-save"]
    _install([npm, "install", *quiet, f"openai@{NODE}", "--prefix"], folder)
    sdk = folder / "node_modules" / "openai"
    return Sdk(NODE, [node, str(HERE / "sdk_scenarios.mjs"), str(sdk)])


def _install(command: Sequence[str], folder: Path) -> None:
    """Run `command` on a fresh directory and keep that as `folder`, unless it is there."""
    if folder.is_dir():
        return
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        fresh = Path(scratch) / folder.name
        try:
            subprocess.run(
                [*command, str(fresh)],
                check=True,
                capture_output=True,
                timeout=INSTALL_SECONDS,
                env=os.environ | {"npm_config_update_notifier": "false"},
            )
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"{folder.name} cannot be installed: {error}")
        fresh.rename(folder)
