"""A real server process with the real model, and llama.cpp itself as a second opinion."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
import xllamacpp
from transformers import AutoTokenizer

from adapters.local import weights
from adapters.local.registry import Model
from adapters.local.server import create_app
from tests.patience import PATIENCE_SECONDS

MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"
WEIGHTS = "smollm2-135m-instruct"
TOKENIZER = Path(weights.__file__).parent / "tokenizers" / "SmolLM2-135M-Instruct"

Serve = Callable[..., AbstractContextManager[httpx.Client]]
InThread = Callable[..., AbstractContextManager[httpx.Client]]


@contextmanager
def _serve(*options: str, wait: bool = True) -> Iterator[httpx.Client]:
    """Run `python -m adapters.local` on a socket of its own; yield a client that skips its cache.

    With `wait`, the model is ready. The process must end well when it is told to.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        fd = listener.fileno()
        command = [sys.executable, "-m", "adapters.local", "--fd", str(fd), *options]
        process = subprocess.Popen(command, pass_fds=[fd], stderr=subprocess.DEVNULL)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    headers = {"x-use-cache": "0"}
    with httpx.Client(
        base_url=url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False
    ) as client:
        try:
            if wait:
                client.post("/tokenize", json={"inputs": "x"}, headers={"x-wait-for-model": "1"})
            yield client
        finally:
            process.terminate()
            assert process.wait(timeout=PATIENCE_SECONDS) == 0


@contextmanager
def _in_thread(*models: Model) -> Iterator[httpx.Client]:
    """Serve `models` from a thread of this process."""
    config = uvicorn.Config(create_app(models), log_config=None, timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False) as client:
            yield client
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@pytest.fixture(scope="session")
def in_thread() -> InThread:
    return _in_thread


@pytest.fixture(scope="session")
def pipelines(client: httpx.Client) -> Iterator[httpx.Client]:
    """A client of the same process that waits for a model which is not loaded yet."""
    headers = {"x-use-cache": "0", "x-wait-for-model": "1"}
    with httpx.Client(
        base_url=client.base_url, headers=headers, timeout=PATIENCE_SECONDS, trust_env=False
    ) as waiting:
        yield waiting


@pytest.fixture(scope="session")
def weights_path() -> Path:
    """Fails, with the command to run, when the weights have not been fetched."""
    return weights.find(WEIGHTS)


@pytest.fixture(scope="session")
def serve(weights_path: Path) -> Serve:
    return _serve


@pytest.fixture(scope="session")
def client(serve: Serve) -> Iterator[httpx.Client]:
    with serve() as client:
        yield client


@pytest.fixture(scope="session")
def model_path() -> str:
    return f"/models/{MODEL_ID}"


@pytest.fixture(scope="session")
def llama_url(weights_path: Path) -> Iterator[str]:
    """llama.cpp's own HTTP server over the same weights, in this process."""
    settings = xllamacpp.CommonParams()
    settings.model.path = str(weights_path)
    settings.n_ctx = 2048
    settings.n_parallel = 1
    settings.cpuparams.n_threads = 1
    settings.cache_prompt = False
    settings.verbosity = -1
    server = xllamacpp.Server(settings)
    yield server.listening_address


@pytest.fixture(scope="session")
def chat_prompt() -> Callable[[str], str]:
    """Renders one user message with the chat template that is shipped."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)

    def render(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        rendered: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )
        return rendered

    return render


@pytest.fixture(scope="session")
def events() -> Callable[[bytes], list[dict[str, Any]]]:
    """Reads a whole native stream."""

    def parse(body: bytes) -> list[dict[str, Any]]:
        frames = body.decode().removesuffix("\n\n").split("\n\n")
        return [json.loads(frame.removeprefix("data: ")) for frame in frames if frame != ":"]

    return parse
