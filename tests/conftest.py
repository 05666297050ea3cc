"""What every test needs."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

from tests.patience import LONGEST_TEST_SECONDS, bounded

# By default hypothesis fails an example that takes a fifth of a second, as on a busy machine.
settings.register_profile(
    "patient",
    parent=settings.default,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Spare the collector the thousands of modules and tests that live to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """End an asynchronous test that hangs, unless it is a slow one."""
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        is_slow = pyfuncitem.get_closest_marker("slow") is not None
        pyfuncitem.obj = bounded(pyfuncitem.obj, None if is_slow else LONGEST_TEST_SECONDS)
    return (yield)
