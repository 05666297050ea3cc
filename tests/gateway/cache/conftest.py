"""A cache store for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.state_server import RealServer, program


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RealServer]:
    server = RealServer(program("valkey"), tmp_path)
    yield server
    server.go_on()
    server.kill()
