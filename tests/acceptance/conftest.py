"""The gateway, in front of an upstream that answers with recordings, and clients of it."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config import Settings
from tests.acceptance.recordings import Library, names
from tests.gateway_fixture import CREDENTIAL, Gateway, running_gateway
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream

TOKENIZER = Path(__file__).parents[2] / "adapters/local/tokenizers/SmolLM2-135M-Instruct"

StartGateway = Callable[..., Awaitable[Gateway]]


@pytest.fixture(scope="session")
async def recorded_upstream(anyio_backend: str) -> AsyncIterator[Upstream]:
    async with Upstream(Library()) as upstream:
        yield upstream


@pytest.fixture
async def upstream(recorded_upstream: Upstream) -> AsyncIterator[Upstream]:
    """What stands behind `gateway`, at rest."""
    recorded_upstream.rest()
    yield recorded_upstream
    recorded_upstream.rest()


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tokenizer whose template shows tools and writes their calls as Hermes does."""
    folder = tmp_path_factory.mktemp("tokenizer")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / name, folder)
    shutil.copy(Path(__file__).parent / "hermes.jinja", folder / "chat_template.jinja")
    return str(folder)


@pytest.fixture(scope="session")
async def gateway(
    anyio_backend: str,
    recorded_upstream: Upstream,
    tokenizer: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Gateway]:
    """A gateway with a model for every recording, named after it."""
    settings = _settings(recorded_upstream.url, tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UPSTREAM_KEY", CREDENTIAL)
        async with running_gateway(settings, tmp_path_factory.mktemp("gateway")) as running:
            yield running


@pytest.fixture
async def start_gateway(tmp_path: Path, upstream: Upstream) -> AsyncIterator[StartGateway]:
    """Start a gateway of one's own in front of `upstream`, with these settings."""
    async with AsyncExitStack() as closing:

        async def start(*, server: dict[str, Any] | None = None, **options: Any) -> Gateway:
            hf = {"name": "hf", "dialect": "hf", "base_url": upstream.url, **options}
            model = {"id": "m", "targets": [{"upstream": "hf"}]}
            given = {"server": server or {}, "upstreams": [hf], "models": [model]}
            settings = Settings.model_validate(given)
            return await closing.enter_async_context(running_gateway(settings, tmp_path))

        yield start


@pytest.fixture
async def client(gateway: Gateway, upstream: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    """A plain HTTP client of `gateway` that shows the key."""
    async with httpx.AsyncClient(
        base_url=gateway.base_url, headers=gateway.headers, timeout=PATIENCE_SECONDS
    ) as http:
        yield http


def _settings(url: str, tokenizer: str) -> Settings:
    def upstream(name: str, dialect: str, path: str) -> dict[str, Any]:
        options = {"api_key_env": "UPSTREAM_KEY", "load_wait_seconds": 1}
        return {"name": name, "dialect": dialect, "base_url": url + path, **options}

    def model(name: str, by: str, **options: Any) -> dict[str, Any]:
        return {"id": name, "targets": [{"upstream": by}], **options}

    rendered = {"tokenizer": tokenizer, "max_tokens_default": 77}
    upstreams = [
        upstream("endpoint", "hf", "/hf-inference"),
        upstream("tgi", "tgi", "/tgi"),
        upstream("vllm", "openai", "/v1"),
    ]
    models = [
        *(model(name, "endpoint", **rendered) for name in names("native") + names("errors")),
        *(model(name, "vllm") for name in names("openai")),
        model("tgi", "tgi", **rendered),
    ]
    # Recordings of refusals stand beside others of the same model.
    cache = {"refusal_seconds": 0}
    return Settings.model_validate({"upstreams": upstreams, "models": models, "cache": cache})
