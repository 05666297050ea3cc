"""How metrics are told: whatever state the files of the workers are in."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from random import Random

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import parser as openmetrics

from gateway.metrics.exposition import Exposition
from gateway.metrics.registry import Series
from gateway.metrics.series import METRICS
from tests.gateway.metrics.told import Told

pytestmark = pytest.mark.anyio

OPENMETRICS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3"
COUNT = """
from gateway.metrics.registry import Series
series = Series()
series.adder("dragoman_retries_total", "m")(2)
series.observer("dragoman_model_loading_seconds", "u", "m")(7)
series.gauge("dragoman_workers").set(1)
"""


async def nothing() -> Sequence[Family]:
    return ()


@pytest.fixture
async def exposition(tmp_path: Path) -> AsyncIterator[Exposition]:
    """What two workers, which have ended, have counted."""
    for _ in range(2):
        env = os.environ | {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
        worker = await asyncio.create_subprocess_exec(sys.executable, "-c", COUNT, env=env)
        assert await worker.wait() == 0
    made = Exposition(CollectorRegistry(), tmp_path, nothing)
    yield made
    await made.aclose()


def check_sums(text: bytes) -> None:
    told = Told.of(text.decode())
    assert told.value("dragoman_retries_total", model="m") == 4
    assert told.value("dragoman_model_loading_seconds_sum") == 14
    assert told.value("dragoman_model_loading_seconds_bucket", le="5.0") == 0
    assert told.value("dragoman_model_loading_seconds_bucket", le="10.0") == 2


async def test_what_several_workers_counted_is_added_up(exposition: Exposition) -> None:
    check_sums((await exposition.render())[0])


@pytest.mark.parametrize(
    "content",
    [b"", b"\0", b"\xff" * 64, b"\x40\0\0\0\0\0\0\0" + b"\x7f" * 64, Random(1).randbytes(70_000)],
    ids=["empty", "short", "negative", "too long", "random"],
)
async def test_a_damaged_file_is_passed_over(
    exposition: Exposition, tmp_path: Path, content: bytes
) -> None:
    for name in ("counter_1.db", "histogram_1.db", "gauge_livesum_1.db", "odd.db"):
        (tmp_path / name).write_bytes(content)
    for _ in range(2):
        check_sums((await exposition.render())[0])


async def test_a_file_that_was_being_made_counts_once_it_is_there(
    exposition: Exposition, tmp_path: Path
) -> None:
    [whole, _] = [file.read_bytes() for file in tmp_path.glob("counter_*.db")]  # noqa: ASYNC240 (a test)
    young = tmp_path / "counter_1.db"
    young.write_bytes(b"")
    await exposition.render()
    young.write_bytes(whole)
    told = Told.of((await exposition.render())[0].decode())
    assert told.value("dragoman_retries_total", model="m") == 6


@pytest.mark.parametrize("accept", [OPENMETRICS, "application/openmetrics-text; version=abc"])
async def test_openmetrics_is_told_to_who_asks_for_it(exposition: Exposition, accept: str) -> None:
    text, content_type = await exposition.render(accept)
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    told = openmetrics.text_string_to_metric_families(text.decode())  # type: ignore[no-untyped-call]
    names = [one.name for one in told]
    assert "dragoman_retries" in names


@pytest.mark.parametrize("accept", ["", "*/*", "text/plain;version=x", "\xff;;,="])
async def test_all_others_are_told_the_plain_text(exposition: Exposition, accept: str) -> None:
    text, content_type = await exposition.render(accept)
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    check_sums(text)


async def test_those_who_ask_at_once_share_one_answer_and_one_may_leave() -> None:
    asked = 0
    is_asked, may_answer = asyncio.Event(), asyncio.Event()

    async def ask() -> Sequence[Family]:
        nonlocal asked
        asked += 1
        is_asked.set()
        await may_answer.wait()
        return ()

    exposition = Exposition(Series().registry, None, ask)
    first, *others = [asyncio.create_task(exposition.render()) for _ in range(5)]
    await is_asked.wait()
    first.cancel()
    may_answer.set()
    texts = {(await other)[0] for other in others}
    assert (len(texts), asked, first.cancelled()) == (1, 1, True)
    await exposition.render()
    assert asked == 2


async def test_a_flood_leaves_the_processor_to_others() -> None:
    """The best of five rounds counts: a machine that is busy makes a round worse only."""
    series = Series()
    for model in range(100):
        series.observer("dragoman_model_loading_seconds", "u", f"model-{model}")(1)
    exposition = Exposition(series.registry, None, nothing)
    loop = asyncio.get_running_loop()
    busy_shares = []
    for _ in range(5):
        began, busy_since = loop.time(), time.process_time()
        for _ in range(2):
            await asyncio.gather(*(exposition.render(accept) for accept in ("", OPENMETRICS) * 10))
        busy_shares.append((time.process_time() - busy_since) / (loop.time() - began))
    assert min(busy_shares) < 0.25


async def test_both_forms_are_gathered_one_after_the_other() -> None:
    asking, most = 0, 0

    async def ask() -> Sequence[Family]:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        await asyncio.sleep(0)  # let others run
        asking -= 1
        return ()

    exposition = Exposition(Series().registry, None, ask)
    await asyncio.gather(exposition.render(), exposition.render(OPENMETRICS))
    assert most == 1


async def test_whoever_asks_in_a_flood_is_told_what_is_true_then() -> None:
    series = Series()
    exposition = Exposition(series.registry, None, nothing)
    add = series.adder("dragoman_retries_total", "m")
    for count in range(1, 4):
        add(1)
        text, _ = await exposition.render()
        assert Told.of(text.decode()).value("dragoman_retries_total") == count


async def test_a_question_that_fails_leaves_the_next_one_its_turn() -> None:
    answers = iter([ValueError("nobody foresaw"), ()])

    async def ask() -> Sequence[Family]:
        answer = next(answers)
        if isinstance(answer, ValueError):
            raise answer
        return answer

    exposition = Exposition(Series().registry, None, ask)
    with pytest.raises(ValueError, match="nobody foresaw"):
        await exposition.render()
    assert (await exposition.render())[0]


async def test_what_is_asked_elsewhere_is_told_too() -> None:
    async def ask() -> Sequence[Family]:
        family = Family("dragoman_leases_open", "Help.", "gauge")
        family.add_sample("dragoman_leases_open", {}, 5)
        return [family]

    text, _ = await Exposition(Series().registry, None, ask).render()
    assert Told.of(text.decode()).value("dragoman_leases_open") == 5


async def test_telling_much_does_not_hold_up_the_loop() -> None:
    series = Series()
    for metric in METRICS:
        for model in range(100 if metric.kind == "histogram" else 0):
            series.observer(metric.name, *[f"model-{model}"] * len(metric.labels))(1)
    exposition = Exposition(series.registry, None, nothing)
    # The machine may have other things to do: what counts is whether it can be this short.
    pauses, totals = zip(*[await timed(exposition) for _ in range(5)], strict=True)
    assert min(pauses) < 0.05 < min(totals)


async def timed(exposition: Exposition) -> tuple[float, float]:
    """Return for how long at most the loop did nothing else while metrics were told, and that."""
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(exposition.render())
    longest, began = 0.0, loop.time()
    last = began
    while not task.done():
        await asyncio.sleep(0)
        now = loop.time()
        longest, last = max(longest, now - last), now
    return longest, last - began
