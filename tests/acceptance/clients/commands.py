"""Clients as commands that run scenarios of `scenarios/`."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from tests.acceptance.sdks import Sdk, node_packages, python_packages

HERE = Path(__file__).parent


def here(scenarios: str, package: str) -> Sdk:
    """Return a package of this environment."""
    return Sdk(version(package), _in_python(scenarios))


def from_pypi(scenarios: str, requirement: str, *beside: str) -> Sdk:
    """Return a package, as `name==version`, with those `beside` it. Skips the test without it."""
    name, _, number = requirement.partition("==")
    folder = python_packages(f"{name.partition('[')[0]}-{number}", requirement, *beside)
    return Sdk(number, _in_python(scenarios), env={"PYTHONPATH": str(folder)})


def from_npm(scenarios: str, requirement: str, *beside: str) -> Sdk:
    """Return a package, as `name@version`, with those `beside` it. Skips the test without it."""
    name, _, number = requirement.rpartition("@")
    folder = node_packages(f"{name.strip('@').replace('/', '-')}-{number}", requirement, *beside)
    script = str(HERE / "scenarios" / f"{scenarios}.mjs")
    return Sdk(number, ["node", str(HERE / "run_scenarios.mjs"), str(folder), script])


def _in_python(scenarios: str) -> list[str]:
    script = str(HERE / "scenarios" / f"{scenarios}.py")
    return [sys.executable, str(HERE / "run_scenarios.py"), script]
