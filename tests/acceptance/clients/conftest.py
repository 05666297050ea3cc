"""A gateway as clients find it: the real local models, and a scripted server beside them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import anyio
import pytest

from adapters.local.embedding import EmbeddingModel
from adapters.local.image import ImageModel
from adapters.local.server import create_app
from adapters.local.speech import SpeechModel
from adapters.local.text import TextModel, TextSettings
from adapters.local.transcription import TranscriptionModel
from gateway.config import Cache, Settings
from gateway.config_catalog import Model, Target, Upstream
from gateway.local_models import with_local_upstream
from tests.acceptance.clients.commands import install
from tests.acceptance.clients.upstream import Scripted
from tests.acceptance.sdks import Sdk
from tests.gateway.running import serving
from tests.metered import Metered, metered_gateway
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream as Server

Facts = dict[str, dict[str, Any]]
"""What each scenario saw or raised: see `run_scenarios.py`."""
Run = Callable[[Sdk], Awaitable[Facts]]

NATIVE = ("writes", "sees", "loads", "never_loads", "is_busy", "refuses", "fails", "breaks_off")
OPENAI = ("assists", "falls_silent")


@pytest.fixture(scope="session")
async def site(
    anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Metered]:
    """The gateway."""
    local = create_app(
        [
            TextModel(TextSettings()),
            ImageModel(),
            SpeechModel(),
            EmbeddingModel(),
            TranscriptionModel(),
        ]
    )
    async with serving(local) as port, Server(Scripted()) as server:
        settings = _settings(f"http://127.0.0.1:{port}", server.url)
        async with metered_gateway(settings, tmp_path_factory.mktemp("clients")) as running:
            yield running


@pytest.fixture(scope="session")
def installed() -> None:
    """All clients are there that can be had."""
    install()


@pytest.fixture(scope="session")
async def run(installed: None, site: Metered) -> Run:
    """Return what runs the scenarios of a client, with a key of its own; returns its facts."""

    async def run(sdk: Sdk) -> Facts:
        root, key = site.base_url.removesuffix("/v1"), await site.new_key()
        spent_key = await site.new_key(tokens_per_day=1)
        told = {"HF_INFERENCE_ENDPOINT": root, "HF_TOKEN": key, "SPENT_KEY": spent_key}
        told |= {"NO_PROXY": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        with anyio.fail_after(2 * PATIENCE_SECONDS):
            ran = await anyio.run_process(
                sdk.run(root, key),
                env=os.environ | told | dict(sdk.env),
                stderr=subprocess.PIPE,
                check=False,
            )
        assert ran.returncode == 0, ran.stderr.decode()
        facts: Facts = json.loads(ran.stdout.splitlines()[-1])
        return facts

    return run


def assert_raised(facts: Facts, scenario: str, expected: tuple[str, str]) -> None:
    """Check that a scenario raised an exception of that name, and what it told."""
    kind, words = expected
    raised, told = facts[scenario]["raised"]
    assert raised == kind
    assert words in told


@pytest.fixture(scope="session")
async def continued(site: Metered) -> str:
    """How the local model goes on after "The sky is", greedily, for twelve tokens."""
    url = f"{site.base_url.removesuffix('/v1')}/models/local-chat/generate"
    parameters = {"max_new_tokens": 12, "do_sample": False}
    async with site.client(await site.new_key()) as client:
        told = await client.post(url, json={"inputs": "The sky is", "parameters": parameters})
    text: str = told.json()["generated_text"]
    return text


def _settings(local_url: str, scripted_url: str) -> Settings:
    """Return the embedded models, and those of the scripted server.

    Unseeded answers are kept, as the hosted service keeps them: the cookbook shows it.
    """
    settings = with_local_upstream(Settings(cache=Cache(unseeded=True)), local_url)
    upstreams = (
        *settings.upstreams,
        Upstream(name="hf", dialect="hf", base_url=scripted_url, load_wait_seconds=1),
        Upstream(name="openai", dialect="openai", base_url=f"{scripted_url}/v1"),
    )
    models = (
        *settings.models,
        *(Model(id=f"scripted/{name}", targets=(Target(upstream="hf"),)) for name in NATIVE),
        *(Model(id=f"scripted/{name}", targets=(Target(upstream="openai"),)) for name in OPENAI),
    )
    return settings.model_copy(update={"upstreams": upstreams, "models": models})
