"""What images may use at most, and what they have used whenever they end."""

from __future__ import annotations

import asyncio

import pytest

from adapters.base import Task
from adapters.errors import Failed, Interrupted
from gateway.amounts import Usage
from gateway.exchange import Body, Exchange, Frames, Route
from gateway.images import sniff
from gateway.tasks.image import ImageTask
from tests.gateway.image_route.painting import http, painted
from tests.gateway.taped import answered
from tests.gateway.usage.gate import Gate, exchange, left_after, route
from tests.gateway.usage.text_upstream import as_json
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

PIXELS = 32 * 24


async def streamed(asked: Exchange, path: Route, gate: Gate) -> Frames:
    job = await ImageTask(None).prepare(asked, path)
    assert job.estimate == Usage(images=4)
    await gate.open()
    stream = await answered(job)
    assert not isinstance(stream, Body)
    return stream


@pytest.mark.parametrize("reads", range(4))
async def test_a_stream_of_images_that_is_left_used_those_that_came(
    upstream: Upstream, reads: int
) -> None:
    gate = Gate(upstream, lambda _: http(painted()))
    asked = exchange(Task.IMAGE, prompt="fox", n=4, stream=True)
    stream = await streamed(asked, route(upstream, Task.IMAGE), gate)
    await left_after(stream, gate, reads=reads)
    made = reads + 1
    assert made == gate.answered
    assert asked.usage == Usage(images=made, pixels=made * PIXELS)


async def test_a_stream_of_images_that_fails_used_those_that_came(upstream: Upstream) -> None:
    broken = as_json({"error": "CUDA error"}, status=500)
    answers = [http(painted()), http(painted()), broken, http(painted())]
    gate = Gate(upstream, lambda _: answers.pop(0))
    asked = exchange(Task.IMAGE, prompt="fox", n=4, stream=True)
    stream = await streamed(asked, route(upstream, Task.IMAGE), gate)
    async for _ in stream.frames():
        await gate.open()
    assert stream.error
    assert asked.usage == Usage(images=2, pixels=2 * PIXELS)
    await gate.open()  # too late
    await upstream.visits[3].gone()
    await stream.aclose()
    assert asked.usage.images == 2


async def test_images_that_came_before_another_failed_were_used(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = asyncio.Semaphore(0)

    def noting(data: bytes) -> str | None:
        came.release()
        return sniff(data)

    async def fail(visit: Visit) -> None:
        await came.acquire()
        await came.acquire()
        await visit.send(as_json({"error": "CUDA error"}, status=500))

    async def paint(visit: Visit) -> None:
        await visit.send(http(painted()))

    monkeypatch.setattr("gateway.tasks.image.sniff", noting)
    upstream.play(paint, fail, paint)
    asked = exchange(Task.IMAGE, prompt="fox", n=3)
    with pytest.raises(Failed):
        await answered(await ImageTask(None).prepare(asked, route(upstream, Task.IMAGE)))
    assert asked.usage.images == 2


async def test_what_is_no_image_is_not_counted(upstream: Upstream) -> None:
    upstream.play(http(b"an apology"))
    asked = exchange(Task.IMAGE, prompt="fox")
    with pytest.raises(Interrupted):
        await answered(await ImageTask(None).prepare(asked, route(upstream, Task.IMAGE)))
    assert asked.usage == Usage()
