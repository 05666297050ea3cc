"""A gateway as a process of its own, for tests that measure one.

Prints its port and a key, then its resident bytes for every line that it reads, until the end.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from gateway.config import Settings
from tests.gateway_fixture import running_gateway


def resident_bytes() -> int:
    """Return what the process occupies in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def main(settings: Settings, data_dir: Path) -> None:
    """Serve until standard input ends."""
    async with running_gateway(settings, data_dir) as gateway:
        print(gateway.port, gateway.key, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(resident_bytes(), flush=True)


if __name__ == "__main__":
    asyncio.run(main(Settings.model_validate_json(sys.argv[1]), Path(sys.argv[2])))
