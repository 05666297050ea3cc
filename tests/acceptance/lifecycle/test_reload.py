"""A configuration that is reloaded while the gateway serves."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import AsyncIterator

import pytest

from tests.acceptance.lifecycle.site import Site, chunks, ends, load, site_at, streams
from tests.patience import PATIENCE_SECONDS
from tests.served import is_running, wait_until

pytestmark = pytest.mark.anyio

STREAMS = REQUESTERS = 50
RELOADED, REFUSED = "reloaded in ", "not reloaded: "


@pytest.fixture(scope="module")
async def running(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Site]:
    """A gateway with the models `m` and `old`, one after the other for each test."""
    async with site_at(tmp_path_factory.mktemp("gateway"), "m", "old") as site:
        yield site
        assert await site.served.end(signal.SIGTERM) == 0
        assert "Traceback" not in site.served.said


@pytest.fixture
async def site(running: Site) -> Site:
    running.speaker.may_end.clear()
    return running


async def reload(site: Site) -> str:
    """Send SIGHUP and return what the gateway says of the reload that follows."""
    seen = site.served.said.count(RELOADED)
    site.served.process.send_signal(signal.SIGHUP)
    await site.served.says(RELOADED, times=seen + 1)
    return site.served.said.splitlines()[-1]


async def refusal(site: Site) -> str:
    """Send SIGHUP and return what was wrong."""
    seen = site.served.said.count(REFUSED)
    site.served.process.send_signal(signal.SIGHUP)
    await site.served.says(REFUSED, times=seen + 1)
    return site.served.said.splitlines()[-1].partition(REFUSED)[2]


async def settled(site: Site) -> set[int]:
    """Return the workers once there are two, as the generation before has ended."""
    await wait_until(lambda: len(site.served.workers()) == 2)
    return site.served.workers()


async def test_reload_cuts_no_stream_and_fails_no_request(site: Site) -> None:
    before = site.served.workers()
    async with (
        streams(site, "m", STREAMS) as begun,
        load(site, "m", REQUESTERS) as requests,
    ):
        await requests.answers(REQUESTERS)
        site.config.write("m", "new")
        said = await reload(site)
        await requests.answers(2 * REQUESTERS)

        assert "models: 1 added, 1 removed, 0 changed; 2 workers" in said
        assert {await site.ask("new") for _ in range(4)} == {200}
        assert {await site.ask("old") for _ in range(4)} == {404}
        await chunks(begun)
        site.speaker.may_end.set()
        await ends(begun)
    assert set(requests.statuses) == {200}
    assert requests.lost == 0
    await wait_until(lambda: not any(map(is_running, before)))
    assert len(site.served.workers()) == 2


async def test_ten_signals_in_a_row_leave_the_last_file_in_force(site: Site) -> None:
    async with load(site, "m", 10) as requests:
        await requests.answers(10)
        for number in range(10):
            site.config.write("m", f"model-{number}", server="workers = 1")
            site.served.process.send_signal(signal.SIGHUP)
            await requests.answers(5)
        async with asyncio.timeout(PATIENCE_SECONDS):
            while await site.ask("model-9") != 200:
                await requests.answers(5)
        await wait_until(lambda: len(site.served.workers()) == 1)
        assert await site.ask("model-8") == 404
        site.config.write("m", *"abcdefg")
        site.served.process.send_signal(signal.SIGHUP)
        await site.served.says("models: 7 added, 1 removed")
    assert 2 <= site.served.said.count(RELOADED) <= 12
    assert set(requests.statuses) == {200}
    assert requests.lost == 0


async def test_bad_file_leaves_the_old_one_in_force_and_says_why(site: Site) -> None:
    site.config.write("m", "old")
    await reload(site)
    pids = await settled(site)
    site.config.path.write_text("[server")

    said = await refusal(site)

    assert said.startswith(f"{site.config.path}: not TOML: ")
    assert await site.ask("old") == 200
    assert site.served.workers() == pids


@pytest.mark.parametrize(
    ("server", "more", "problem"),
    [
        ("wrokers = 2", "", "server.wrokers: unknown key; expected one of host, port, "),
        ("workers = 0", "", "server.workers: Input should be greater than or equal to 1"),
        (
            "",
            '[[upstreams]]\nname = "v"\ndialect = "tgi"\nbase_url = "http://v"\n'
            'api_key_env = "NOWHERE"',
            "upstreams.v.api_key_env: the variable NOWHERE is not set",
        ),
        ("host = '127.0.0.2'", "", "server.host: cannot change while the gateway runs: "),
        ("", "[store]\nbook = 'sqlite:///b'", "store.book: cannot change while the gateway runs: "),
        ("", "[hub]\nenabled = true\napi_key_env = 'NOWHERE'", "hub.api_key_env: the variable "),
    ],
)
async def test_reload_is_refused_in_the_sentences_of_the_start(
    site: Site, server: str, more: str, problem: str
) -> None:
    site.config.write("m", "new", server=server or "workers = 2", more=more)

    said = await refusal(site)

    assert said.startswith(problem)


async def test_local_models_cannot_come_by_a_reload(site: Site) -> None:
    site.config.path.write_text("")

    said = await refusal(site)

    assert said.startswith("upstreams: the local models cannot come or go while the gateway runs")


async def test_generation_that_does_not_come_up_leaves_the_old_one_in_force(site: Site) -> None:
    pepper = site.config.path.parent / "data" / "pepper"
    kept = pepper.read_bytes()
    site.config.write("m", "old")
    pids = await settled(site)
    pepper.write_bytes(b"")
    try:
        assert re.fullmatch("worker [12] ended with code 1 before all served", await refusal(site))
        assert await site.ask("m") == 200
        await wait_until(lambda: site.served.workers() == pids)
    finally:
        pepper.write_bytes(kept)
    site.served.said = ""  # with the worker's traceback


async def test_killed_worker_is_replaced_by_one_with_the_same_configuration(site: Site) -> None:
    site.config.write("m", "kept")
    await reload(site)
    site.config.write("m", "unread")
    victim, other = await settled(site)
    metrics = site.config.path.parent / "data" / "metrics"
    gauges = [metrics / f"gauge_livesum_{pid}.db" for pid in (victim, other)]
    for gauge in gauges:
        gauge.touch()

    async with load(site, "kept", 10) as requests:
        await requests.answers(10)
        os.kill(victim, signal.SIGKILL)
        await wait_until(lambda: len(site.served.workers() - {victim}) == 2)
        os.kill(other, signal.SIGSTOP)  # so that the successor answers
        try:
            assert await site.ask("kept") == 200
            assert await site.ask("unread") == 404
        finally:
            os.kill(other, signal.SIGCONT)
        await requests.answers(50)

    assert set(requests.statuses) == {200}
    assert requests.lost <= 10  # those that the victim had
    assert [gauge.exists() for gauge in gauges] == [False, True]
