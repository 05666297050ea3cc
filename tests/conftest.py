"""What every test needs."""

import pytest
from hypothesis import HealthCheck, settings

# By default hypothesis fails an example that takes a fifth of a second, as on a busy machine.
settings.register_profile(
    "patient",
    parent=settings.default,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("patient")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
