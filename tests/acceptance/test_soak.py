"""The soak (`python -m tests.bench.soak`), as short as it can be and still show a leak of ten."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.soak import report, soak

pytestmark = pytest.mark.anyio

REQUESTS = 3_000


async def test_nothing_is_left_of_requests_of_every_kind(tmp_path: Path) -> None:
    findings = await soak(tmp_path, requests=REQUESTS, processes=2)

    # Memory is for the long run to judge: pools and allocators are still settling.
    assert [one for one in findings.problems() if "grows" not in one] == [], report(findings)
    assert findings.requests.total() >= REQUESTS
    assert findings.recorded == findings.admitted
