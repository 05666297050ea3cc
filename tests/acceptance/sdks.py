"""Clients as commands to run, installed into `.cache/` once: OpenAI's official SDKs and others."""

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
    folder = python_packages(f"openai-python-{OLD_PYTHON}", f"openai=={OLD_PYTHON}")
    command = [sys.executable, str(HERE / "sdk_scenarios.py")]
    return Sdk(OLD_PYTHON, command, (kind,), {"PYTHONPATH": str(folder)})


def node_sdk() -> Sdk:
    """Return the last SDK that runs on Node 20. Skips the test without `node` and `npm`."""
    folder = node_packages(f"openai-node-{NODE}", f"openai@{NODE}")
    return Sdk(NODE, ["node", str(HERE / "sdk_scenarios.mjs"), str(folder / "openai")])


def python_packages(name: str, *requirements: str) -> Path:
    """Return a PYTHONPATH with `requirements`. Skips the test if they cannot be installed."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return _installed([*pip, *requirements, "--target"], name)


def node_packages(name: str, *requirements: str) -> Path:
    """Return the `node_modules` with `requirements`. Skips the test without `node` and `npm`."""
    if not (shutil.which("node") and (npm := shutil.which("npm"))):
        pytest.skip(f"{name} needs 'node' and 'npm', which are not both here")
    quiet = ["--silent", "--no-audit", "--no-fund", "--no-save", "--fetch-retries=0"]
    return _installed([npm, "install", *quiet, *requirements, "--prefix"], name) / "node_modules"


def _installed(command: Sequence[str], name: str) -> Path:
    """Return `.cache/{name}`; `command` is run on a fresh directory for it, unless it is there."""
    folder = CACHE / name
    if folder.is_dir():
        return folder
    CACHE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        fresh = Path(scratch) / name
        try:
            subprocess.run(
                [*command, str(fresh)],
                check=True,
                capture_output=True,
                timeout=INSTALL_SECONDS,
                env=os.environ | {"npm_config_update_notifier": "false"},
            )
        except (OSError, subprocess.SubprocessError) as error:
            said = (getattr(error, "stderr", None) or b"").decode().splitlines()
            pytest.skip(f"{name} cannot be installed: {said[-1] if said else error}")
        fresh.rename(folder)
    return folder
