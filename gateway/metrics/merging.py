"""What several processes have counted, as one."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import cast

from prometheus_client.metrics_core import Metric as Family
from prometheus_client.multiprocess import MultiProcessCollector

# Without types.
_merge = cast("Callable[[Iterable[str]], Iterable[Family]]", MultiProcessCollector.merge)

UNREADABLE = (
    *(OSError, RuntimeError, ValueError, LookupError, TypeError, AttributeError),
    struct.error,
)
"""What reading a file raises that another process has just made, or left behind damaged."""


def merged(files: Iterable[Path]) -> list[Family]:
    """Return what processes have written to `files`. Raises as UNREADABLE says."""
    return list(_merge(map(str, files)))
