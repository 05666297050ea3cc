"""A Hub and its router on 127.0.0.1, and a gateway in front of them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx

from gateway.book import Book, KeyOptions
from gateway.config import Settings
from gateway.keys import digest, generate
from tests.gateway_fixture import PEPPER, Gateway, running_gateway
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream, Visit

Json = dict[str, Any]
TOKEN = "hf_theGatewaysOwnTokenForTheHub"
CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


def reply(body: Any, *, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> bytes:
    """Return an answer; what is no bytes goes as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
    given = {"content-type": kind, "content-length": str(len(data)), **(headers or {})}
    lines = "\r\n".join(f"{name}: {value}" for name, value in given.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n\r\n".encode() + data


def answer(text: str) -> bytes:
    """Return a whole chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return reply({"choices": [choice], "usage": usage})


def model(
    name: str, tag: str | None, *providers: tuple[str, str, str], gated: str | bool = False
) -> Json:
    """Return the Hub's word on a model. `providers`: name, its own name of the model, task."""
    mapping = {
        provider: {"status": "live", "providerId": own, "task": task}
        for provider, own, task in providers
    }
    return {"id": name, "pipeline_tag": tag, "gated": gated, "inferenceProviderMapping": mapping}


class FakeHub:
    """Plays the Hub: answers for `models`, and 404 for all others."""

    def __init__(self) -> None:
        self.models: dict[str, Json | bytes] = {}
        self.asked: list[str] = []
        self.queries: list[dict[str, list[str]]] = []

    async def __call__(self, visit: Visit) -> None:
        """Answer one request."""
        url = urlsplit(visit.path)
        name = url.path.removeprefix("/api/models/")
        self.asked.append(name)
        self.queries.append(parse_qs(url.query))
        known = self.models.get(name)
        if isinstance(known, bytes):
            await visit.send(known)
        elif known:
            await visit.send(reply(known))
        else:
            missing = {"x-error-code": "RepoNotFound"}
            refused = reply({"error": "Repository not found"}, status="404 NF", headers=missing)
            await visit.send(refused)


@dataclass(frozen=True, slots=True)
class HubSite:
    """A gateway whose models are the Hub's. `hub`: what the Hub knows, and was asked."""

    hub: FakeHub
    hub_server: Upstream
    router: Upstream
    gateway: Gateway
    client: httpx.AsyncClient
    data_dir: Path

    async def chat(self, name: str, **fields: Any) -> httpx.Response:
        """Return the answer to a chat with this model."""
        return await self.client.post("/chat/completions", json={"model": name, **CHAT, **fields})

    async def restricted(self, *globs: str) -> dict[str, str]:
        """Return the headers of a new key that may use these models only."""
        book = await Book.open(self.data_dir)
        try:
            key = generate()
            options = KeyOptions(name="some", models=globs)
            await book.create_key(key.id, digest(key.text, PEPPER), options=options)
        finally:
            await book.aclose()
        return {"authorization": f"Bearer {key.text}"}


@asynccontextmanager
async def hub_site(data_dir: Path, **options: Any) -> AsyncIterator[HubSite]:
    """Run all of them. HF_TOKEN must hold TOKEN. `options`: more of the configuration."""
    hub = FakeHub()
    async with Upstream(hub) as hub_server, Upstream(_refuse) as router:
        section = {"enabled": True, "url": hub_server.url, "router_url": router.url}
        section |= options.pop("hub", {})
        settings = Settings.model_validate({"hub": section, **options})
        async with (
            running_gateway(settings, data_dir) as gateway,
            httpx.AsyncClient(
                base_url=gateway.base_url,
                headers=gateway.headers,
                timeout=PATIENCE_SECONDS,
                trust_env=False,
            ) as client,
        ):
            yield HubSite(hub, hub_server, router, gateway, client, data_dir)


async def _refuse(visit: Visit) -> None:
    await visit.send(reply({"error": "Not Found"}, status="404 NF"))
