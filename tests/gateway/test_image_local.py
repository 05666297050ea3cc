"""Images by the real model of the local server, through the gateway."""

from __future__ import annotations

import base64
import io
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import uvicorn
from openai import AsyncOpenAI, BadRequestError
from PIL import Image

from adapters.local.image import ImageModel
from adapters.local.server import create_app
from gateway.config import Settings
from gateway.local_models import with_local_upstream
from tests.gateway_fixture import running_gateway

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def local_url() -> Iterator[str]:
    """The address of a server of the local image model."""
    config = uvicorn.Config(
        create_app([ImageModel()]), log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
async def sdk(
    anyio_backend: str, local_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[AsyncOpenAI]:
    settings = with_local_upstream(Settings(), local_url)
    images = tuple(model for model in settings.models if model.task == "image")
    settings = settings.model_copy(update={"models": images})
    async with (
        running_gateway(settings, tmp_path_factory.mktemp("gateway")) as gateway,
        AsyncOpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0) as client,
    ):
        yield client


async def made(sdk: AsyncOpenAI, **options: Any) -> list[bytes]:
    answer = await sdk.images.generate(
        model="local-image", prompt="a red fox", size="64x64", **options
    )
    return [base64.b64decode(image.b64_json or "") for image in answer.data or ()]


async def test_a_seed_gives_the_same_picture_alone_and_among_four(sdk: AsyncOpenAI) -> None:
    options = {"extra_body": {"seed": 5, "num_inference_steps": 4}}
    alone, among_four = await made(sdk, **options), await made(sdk, n=4, **options)
    assert alone == [among_four[0]]
    assert len(set(among_four)) == 4
    with Image.open(io.BytesIO(alone[0])) as picture:
        assert (picture.format, picture.size) == ("PNG", (64, 64))


async def test_ten_pictures_at_once_are_not_too_many(sdk: AsyncOpenAI) -> None:
    assert len(set(await made(sdk, n=10, extra_body={"num_inference_steps": 1}))) == 10


async def test_the_model_obeys_its_own_parameters(sdk: AsyncOpenAI) -> None:
    few = {"seed": 5, "num_inference_steps": 4}
    plain, *others = [
        (await made(sdk, extra_body=few | more))[0]
        for more in ({}, {"guidance_scale": 8.0}, {"negative_prompt": "fox"})
    ]
    assert plain not in others
    assert others[0] != others[1]


async def test_a_size_that_the_model_cannot_make_is_refused(sdk: AsyncOpenAI) -> None:
    with pytest.raises(BadRequestError, match="width"):
        await sdk.images.generate(model="local-image", prompt="a red fox", size="4096x4096")
