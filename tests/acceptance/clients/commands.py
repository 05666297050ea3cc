"""Clients as commands that run scenarios of `scenarios/`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.acceptance.sdks import Sdk, node_packages, python_packages

HERE = Path(__file__).parent

# What goes together is installed together, as its own dependencies are many and the same.
ENVIRONMENTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cookbook": ("huggingface_hub==0.26.5", "transformers==4.46.3", "pillow"),
        "tgi": ("text-generation==0.7.0",),
        "instructor": ("instructor==1.17.0",),
        "frameworks": (
            "langchain-openai==1.7.3",
            "langchain-huggingface==1.2.3",
            "pydantic-ai-slim[openai]==2.68.0",
            "openai-agents==0.24.0",
        ),
    }
)


def install() -> None:
    """Install all environments that are not there yet, side by side.

    One that cannot be had is left to whoever asks for it.
    """

    def each(name: str) -> None:
        try:
            python_packages(name, *ENVIRONMENTS[name])
        except pytest.skip.Exception:
            return

    with ThreadPoolExecutor() as threads:
        list(threads.map(each, ENVIRONMENTS))


def here(scenarios: str, package: str) -> Sdk:
    """Return a package of this environment."""
    return Sdk(version(package), _in_python(scenarios))


def from_pypi(scenarios: str, package: str, *, environment: str) -> Sdk:
    """Return a package of one of `ENVIRONMENTS`. Skips the test where it cannot be installed."""
    requirements = ENVIRONMENTS[environment]
    [number] = [one.partition("==")[2] for one in requirements if one.startswith(package)]
    folder = python_packages(environment, *requirements)
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
