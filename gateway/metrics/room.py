"""Room on the disk for what a worker counts.

prometheus_client maps files that have holes. On a full disk the first touch of one ends the process
by SIGBUS, and so its successors. Files that have their blocks already can be filled at any time.
"""

from __future__ import annotations

import os
from pathlib import Path

from gateway.metrics.series import METRICS

_KIB = 1024
_BLOCKS = {"counter": (64 * _KIB, 16 * _KIB), "histogram": (256 * _KIB, 96 * _KIB)}
"""Bytes that there are at least, and for each model: a third more than it takes where its requests
end in three ways. Who needs more gets holes again, which matter on a full disk alone."""
_MOST_MODELS = 50
_GAUGES = (64 * _KIB, _KIB)


def reserve(folder: Path, *, models: int) -> None:
    """Make the files that prometheus_client is about to map in this process: 6.5 MB at most.

    Raises OSError if there is no room; then none is left behind.
    """
    models = min(models, _MOST_MODELS)
    sizes = _BLOCKS | {f"gauge_{one.together}": _GAUGES for one in METRICS if one.kind == "gauge"}
    made: list[Path] = []
    try:
        for prefix, (least, for_each) in sizes.items():
            file = folder / f"{prefix}_{os.getpid()}.db"
            if file.exists():  # of a dead worker that had the same id: it is gone on with
                continue
            made.append(file)
            # Zeros rather than a length: they take their blocks now.
            file.write_bytes(bytes(least + for_each * models))
    except OSError:
        for file in made:
            file.unlink(missing_ok=True)
        raise
