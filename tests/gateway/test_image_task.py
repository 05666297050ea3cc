"""What an exchange tells about its images, once they are made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest

from adapters.base import Task
from gateway.amounts import Usage
from gateway.config import Settings
from gateway.errors import BadRequest, GatewayError
from gateway.exchange import Answer, Body, Exchange, Route
from gateway.image_files import ImageFiles
from gateway.keys import Caller
from gateway.tasks.image import ImageStream, ImageTask
from gateway.upstreams.catalog import Catalog
from tests.gateway.image_route.painting import painted
from tests.gateway.taped import answered

pytestmark = pytest.mark.anyio


def exchange(**body: Any) -> Exchange:
    return Exchange(
        id="0",
        task=Task.IMAGE,
        caller=Caller(id="id", name="test"),
        body={"model": "painter", "prompt": "fox", **body},
        base_url="http://gateway",
    )


async def answer(task: ImageTask, asked: Exchange, route: Route) -> Answer:
    return await answered(await task.prepare(asked, route))


@pytest.fixture
def route() -> Route:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=painted()))
    settings = Settings(
        upstreams=[{"name": "hf", "dialect": "hf", "base_url": "http://127.0.0.1:1"}],
        models=[{"id": "painter", "task": "image", "targets": [{"upstream": "hf"}]}],
    )
    [model] = Catalog(settings, transport).models
    return Route(model, model.targets[0])


async def test_images_and_pixels_are_counted(route: Route) -> None:
    asked = exchange(n=3)
    assert isinstance(await answer(ImageTask(None), asked, route), Body)
    assert asked.usage == Usage(images=3, pixels=3 * 32 * 24)
    assert asked.upstream_ms > 0


async def test_a_stream_counts_what_it_made(route: Route) -> None:
    asked = exchange(n=3, stream=True)
    stream = await answer(ImageTask(None), asked, route)
    assert isinstance(stream, ImageStream)
    frames = b"".join([frames async for frames in stream.frames()])
    assert frames.count(b"event: image_generation.completed\n") == 3
    assert asked.usage == Usage(images=3, pixels=3 * 32 * 24)


async def test_an_address_is_refused_where_nothing_can_be_kept(route: Route) -> None:
    with pytest.raises(BadRequest) as refusal:
        await ImageTask(None).prepare(exchange(response_format="url"), route)
    assert refusal.value.param == "response_format"


async def test_a_full_disk_is_told_without_its_path(route: Route, tmp_path: Path) -> None:
    (tmp_path / "images").write_bytes(b"not a directory")
    files = ImageFiles(tmp_path / "images")
    with pytest.raises(GatewayError) as failure:
        await answer(ImageTask(files), exchange(response_format="url"), route)
    assert failure.value.code == "storage_unavailable"
    assert str(tmp_path) not in failure.value.message
