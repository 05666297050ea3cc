"""Where what is tested lies, and how it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
SETTLING_SECONDS = 5  # what a gateway may still have to do once its streams are drained


def read(path: str) -> str:
    """Return the text of a file in `deploy/`."""
    return (DEPLOY / path).read_text(encoding="utf-8")


def read_yaml(path: str) -> Any:
    """Return what a YAML file in `deploy/` holds."""
    return yaml.safe_load(read(path))


def without_comments(text: str) -> str:
    """Return `text` without the lines that are comments."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
