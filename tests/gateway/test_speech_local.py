"""Speech by the real model of the local server, through the gateway; another one listens to it."""

from __future__ import annotations

import io
import re
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import av
import httpx
import openai
import pytest
import uvicorn

from adapters.local.server import create_app
from adapters.local.speech import SpeechModel
from adapters.local.transcription import TranscriptionModel
from gateway.config import Settings
from gateway.local_models import with_local_upstream
from tests.gateway_fixture import running_gateway

pytestmark = pytest.mark.anyio

TEXT = "The gateway turned one request into speech. Nobody had to leave this machine."


@pytest.fixture(scope="module")
def local_url() -> Iterator[str]:
    """The address of a server of the two local models that speak and listen."""
    config = uvicorn.Config(
        create_app([SpeechModel(), TranscriptionModel()]),
        log_config=None,
        timeout_graceful_shutdown=1,
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
) -> AsyncIterator[openai.AsyncOpenAI]:
    settings = with_local_upstream(Settings(), local_url)
    spoken = tuple(model for model in settings.models if model.task == "speech")
    settings = settings.model_copy(update={"models": spoken})
    async with (
        running_gateway(settings, tmp_path_factory.mktemp("gateway")) as gateway,
        openai.AsyncOpenAI(api_key=gateway.key, base_url=gateway.base_url, max_retries=0) as client,
    ):
        yield client


async def spoken(sdk: openai.AsyncOpenAI, **options: Any) -> bytes:
    fields = {"model": "local-speech", "input": TEXT, "voice": "alloy", **options}
    return (await sdk.audio.speech.create(**fields)).content


def seconds_of(data: bytes) -> float:
    with av.open(io.BytesIO(data)) as container:
        frames = list(container.decode(audio=0))
    return sum(frame.samples for frame in frames) / frames[0].sample_rate


@pytest.mark.parametrize("form", ["mp3", "opus", "flac"])
async def test_what_is_spoken_is_understood(
    sdk: openai.AsyncOpenAI, local_url: str, form: str
) -> None:
    data = await spoken(sdk, response_format=form)
    async with httpx.AsyncClient(base_url=local_url, timeout=60) as http:
        heard = await http.post(
            "/models/openai/whisper-tiny.en", content=data, headers={"x-wait-for-model": "1"}
        )
    words = re.findall(r"\w+", heard.json()["text"].lower())
    assert words == re.findall(r"\w+", TEXT.lower())


async def test_speed_is_the_models_own(sdk: openai.AsyncOpenAI) -> None:
    slow, fast = [seconds_of(await spoken(sdk, speed=speed)) for speed in (0.5, 2.0)]
    assert 3 < slow / fast < 5


async def test_its_only_voice_can_be_named(sdk: openai.AsyncOpenAI) -> None:
    assert seconds_of(await spoken(sdk, voice="heart")) > 2
    with pytest.raises(openai.BadRequestError, match="'heart'"):
        await spoken(sdk, voice="nobody")
