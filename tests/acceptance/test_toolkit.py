"""The server of Inference Endpoints that are no language models: huggingface-inference-toolkit.

It takes a `content-type` only as it is spelt in its table, an `accept` only if it is one type, and
answers every error with 400. What stands behind it are pipelines of `transformers`.
"""

from __future__ import annotations

import base64
import io
import json
import struct
import wave
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gateway.config import Settings
from tests.acceptance.conftest import TOKENIZER
from tests.gateway_fixture import running_gateway
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream, Visit

pytestmark = pytest.mark.anyio

JSON_TYPES = ("application/json", "application/json; charset=UTF-8")
SOUND_TYPES = ("audio/flac", "audio/mpeg", "audio/wav", "audio/ogg", "audio/webm", "audio/m4a")
ACCEPTED = ("*/*", "application/json", "image/png", "image/jpeg")
PARAMETERS = frozenset(
    {"max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "return_full_text"}
)
UNUSED = (
    "The following `model_kwargs` are not used by the model: {names} (note: typos in the generate "
    "arguments will also show up in this list)"
)
PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)
MODELS = {"text": "chat", "picture": "image", "sound": "speech", "vector": "embedding"}
CHAT = {"model": "text", "messages": [{"role": "user", "content": "Hi"}]}


class Toolkit:
    """Plays one endpoint. Its pipeline is that of the model which the test asks for."""

    def __init__(self) -> None:
        self.task = ""
        self.failure = ""

    async def __call__(self, visit: Visit) -> None:
        """Answer one request as the toolkit does, strictly."""
        kind, accept = visit.headers.get("content-type", ""), visit.headers.get("accept", "*/*")
        if kind not in JSON_TYPES + SOUND_TYPES:
            await _send(visit, {"error": f"Content type {kind} not supported."}, ok=False)
        elif accept not in ACCEPTED:
            await _send(visit, {"error": f"Accept type {accept} not supported."}, ok=False)
        elif self.failure:
            await _send(visit, {"error": self.failure}, ok=False)
        else:
            answer = getattr(self, f"_{self.task}")(visit)
            await _send(visit, answer, ok=not (isinstance(answer, dict) and "error" in answer))

    def _text(self, visit: Visit) -> Any:
        unknown = [name for name in visit.body["parameters"] if name not in PARAMETERS]
        if unknown:
            return {"error": UNUSED.format(names=unknown)}
        return [{"generated_text": "Hello STOP there"}]

    def _picture(self, visit: Visit) -> Any:
        return PNG  # without `accept: image/png` it says so in JSON; old versions always do

    def _sound(self, visit: Visit) -> Any:
        return {"audio": [[0.0, 0.5, -0.5] * 800], "sampling_rate": 24_000}

    def _vector(self, visit: Visit) -> Any:
        return {"embeddings": [[0.5, 0.25]]}

    def _heard(self, visit: Visit) -> Any:
        return {"text": " Hello."}


async def _send(visit: Visit, body: Any, *, ok: bool) -> None:
    data = json.dumps(body).encode()
    status = "200 OK" if ok else "400 Bad Request"
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
    await visit.send(f"{head}\r\n\r\n".encode() + data)


@pytest.fixture(scope="module")
def toolkit() -> Toolkit:
    return Toolkit()


@pytest.fixture(scope="module")
async def served(
    anyio_backend: str, toolkit: Toolkit, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Upstream, httpx.AsyncClient]]:
    async with Upstream(toolkit) as upstream:
        endpoint = {"name": "endpoint", "dialect": "hf", "base_url": upstream.url}
        root = [{"upstream": "endpoint", "model": ""}]
        models: list[dict[str, Any]] = [
            {"id": name, "task": task, "targets": root} for name, task in MODELS.items()
        ]
        models[0]["tokenizer"] = str(TOKENIZER)
        models.append({"id": "heard", "task": "transcription", "targets": root})
        settings = Settings.model_validate({"upstreams": [endpoint], "models": models})
        folder: Path = tmp_path_factory.mktemp("toolkit")
        async with (
            running_gateway(settings, folder) as gateway,
            httpx.AsyncClient(
                base_url=gateway.base_url, headers=gateway.headers, timeout=PATIENCE_SECONDS
            ) as client,
        ):
            yield upstream, client


@pytest.fixture
def upstream(served: tuple[Upstream, httpx.AsyncClient], toolkit: Toolkit) -> Upstream:
    served[0].rest()
    toolkit.failure = ""
    return served[0]


@pytest.fixture
def client(served: tuple[Upstream, httpx.AsyncClient], upstream: Upstream) -> httpx.AsyncClient:
    return served[1]


def sound() -> bytes:
    """Return a tenth of a second of WAV."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(struct.pack("<1600h", *([0, 9000] * 800)))
    return file.getvalue()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_pipeline_is_asked_again_without_what_it_has_no_use_for(
    client: httpx.AsyncClient, upstream: Upstream, toolkit: Toolkit, stream: bool
) -> None:
    toolkit.task = "text"
    reply = await client.post("/chat/completions", json={**CHAT, "stop": "STOP", "stream": stream})
    assert reply.status_code == 200, reply.text
    assert "Hello" in reply.text
    assert "STOP" not in reply.text
    assert not {"details", "stop"} & upstream.visits[-1].body["parameters"].keys()


async def test_what_a_pipeline_has_no_use_for_is_remembered(
    client: httpx.AsyncClient, upstream: Upstream, toolkit: Toolkit
) -> None:
    toolkit.task = "text"
    for _ in range(3):
        await client.post("/chat/completions", json=CHAT)
    assert len(upstream.visits) <= 4
    assert upstream.visits[-1].body["parameters"]["return_full_text"] is False


async def test_what_the_answer_depends_on_is_not_left_out(
    client: httpx.AsyncClient, upstream: Upstream, toolkit: Toolkit
) -> None:
    toolkit.task = "text"
    reply = await client.post("/chat/completions", json={**CHAT, "seed": 7})
    assert reply.status_code == 400
    assert "'seed'" in reply.json()["error"]["message"]


async def test_a_picture_in_a_json_string_is_taken(
    client: httpx.AsyncClient, upstream: Upstream, toolkit: Toolkit
) -> None:
    toolkit.task = "picture"
    reply = await client.post("/images/generations", json={"model": "picture", "prompt": "a fox"})
    assert reply.status_code == 200, reply.text
    assert base64.b64decode(reply.json()["data"][0]["b64_json"]).startswith(b"\x89PNG")
    assert upstream.visits[0].headers["accept"] == "image/png"
    assert upstream.visits[0].path == "/"


async def test_sound_as_numbers_is_taken(
    client: httpx.AsyncClient, upstream: Upstream, toolkit: Toolkit
) -> None:
    toolkit.task = "sound"
    body = {"model": "sound", "input": "Hi", "voice": "alloy", "response_format": "wav"}
    reply = await client.post("/audio/speech", json=body)
    assert reply.status_code == 200, reply.text
    with wave.open(io.BytesIO(reply.content)) as file:
        assert file.getframerate() == 24_000


async def test_vectors_with_a_name_are_taken(
    client: httpx.AsyncClient, upstream: Upstream, toolkit: Toolkit
) -> None:
    toolkit.task = "vector"
    reply = await client.post("/embeddings", json={"model": "vector", "input": "Hi"})
    assert reply.json()["data"][0]["embedding"] == [0.5, 0.25]
    assert upstream.visits[0].headers["content-type"] == "application/json"


@pytest.mark.parametrize(("language", "kind"), [(None, "audio/wav"), ("en", "application/json")])
async def test_sound_is_sent_with_a_type_that_it_takes(
    client: httpx.AsyncClient, upstream: Upstream, toolkit: Toolkit, language: str | None, kind: str
) -> None:
    toolkit.task = "heard"
    fields = {"language": language} if language else {}
    reply = await client.post(
        "/audio/transcriptions",
        data={"model": "heard", **fields},
        files={"file": ("a.wav", sound())},
    )
    assert reply.status_code == 200, reply.text
    assert reply.json()["text"] == "Hello."
    assert upstream.visits[0].headers["content-type"] == kind


@pytest.mark.parametrize(
    ("failure", "status"),
    [
        ("CUDA out of memory. Tried to allocate 2.00 GiB", 502),
        ("CUDA error: device-side assert triggered", 502),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.", 502),
        ("Body needs to provide a inputs key", 400),
    ],
)
async def test_a_400_for_lack_of_memory_is_the_servers_failure(
    client: httpx.AsyncClient, upstream: Upstream, toolkit: Toolkit, failure: str, status: int
) -> None:
    toolkit.failure = failure
    reply = await client.post("/embeddings", json={"model": "vector", "input": "Hi"})
    assert reply.status_code == status
