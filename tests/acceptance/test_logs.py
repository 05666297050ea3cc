"""What a gateway's logs hold: a line for each request, and nothing that was said or is secret."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.events import chat
from tests.patience import PATIENCE_SECONDS
from tests.scripted_upstream import Upstream, Visit
from tests.served import Served, is_running, serve, wait_until

pytestmark = pytest.mark.anyio

CANARY = "canary-7f3a"
UPSTREAM_KEY = "an-upstreams-credential-without-a-shape"
ADMIN_KEY = "an-admin-key-that-somebody-has-chosen"
STORE_PASSWORD = "a-stores-password"
SECRETS = (UPSTREAM_KEY, ADMIN_KEY, STORE_PASSWORD)

ANSWER = {
    "choices": [{"message": {"role": "assistant", "content": CANARY}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 34},
}


def http(status: int, body: bytes, content_type: str = "application/json") -> bytes:
    head = f"HTTP/1.1 {status} X\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


def answers(status: int, payload: object) -> bytes:
    return http(status, json.dumps(payload).encode())


def event(payload: object) -> bytes:
    return b"data: %b\n\n" % json.dumps(payload).encode()


CHUNK = event({"choices": [{"index": 0, "delta": {"content": CANARY}}]})
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


async def reset(visit: Visit) -> None:
    await visit.send(STREAM_HEAD, CHUNK)
    visit.reset()


async def hang(visit: Visit) -> None:
    await visit.send(STREAM_HEAD, CHUNK)
    await visit.left.wait()


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async def unwanted(visit: Visit) -> None:
        await visit.send(answers(500, {"error": CANARY}))

    async with Upstream(unwanted) as upstream:
        yield upstream


@asynccontextmanager
async def gateway(
    folder: Path, upstream: Upstream, *, logs: str, store: str = ""
) -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
    """Run `dragoman serve` with these sections, and a client that shows its key."""
    config = folder / "config.toml"
    config.write_text(f"""
        [logs]
        {logs}
        [store]
        {store}
        [cache]
        ttl_seconds = 0
        refusal_seconds = 0
        [retries]
        attempts = 1
        [[upstreams]]
        name = "u"
        dialect = "openai"
        base_url = "{upstream.url}/v1"
        api_key_env = "UPSTREAM_KEY"
        [[models]]
        id = "m"
        vision = true
        targets = [{{ upstream = "u", model = "theirs" }}]
        [[models]]
        id = "ears"
        task = "transcription"
        targets = [{{ upstream = "u" }}]
    """)
    env = {
        "UPSTREAM_KEY": UPSTREAM_KEY,
        "DRAGOMAN_ADMIN_KEY": ADMIN_KEY,
        "DRAGOMAN__LOGS__FORMAT": "json",
    }
    async with serve(folder / "data", "--config", config, env=env) as served:
        port = await served.ready()
        key = await served.key()
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {key}"},
            timeout=PATIENCE_SECONDS,
        ) as client:
            yield served, client


def requests_of(output: str) -> list[dict[str, Any]]:
    """Return the access lines, which must all be JSON."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [line for line in lines if line.get("event") == "request"]


async def say_all(client: httpx.AsyncClient, upstream: Upstream) -> list[tuple[str, int]]:
    """Say the canary wherever a client can; return what was done, and the status of each."""
    said: list[tuple[str, int]] = []

    async def post(
        what: str, body: object, *parts: Any, path: str = "/v1/chat/completions", **options: Any
    ) -> None:
        upstream.play(*(parts or (answers(200, ANSWER),)))
        reply = await client.post(path, json=body, **options)
        said.append((what, reply.status_code))

    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": CANARY}}
    picture = {"type": "image_url", "image_url": {"url": f"https://host/{CANARY}.png"}}
    await post("prompt", chat("m", messages=[{"role": "user", "content": CANARY}]))
    await post("system prompt", chat("m", messages=[{"role": "system", "content": CANARY}]))
    await post("call", chat("m", messages=[{"role": "assistant", "tool_calls": [call]}]))
    await post("picture", chat("m", messages=[{"role": "user", "content": [picture]}]))
    await post("user", chat("m", user=CANARY))
    await post("odd field", chat("m", **{CANARY: CANARY}))
    await post("header", chat("m"), headers={"x-mine": CANARY, "user-agent": CANARY})
    await post("model", chat(CANARY))
    await post("wrong type", chat("m", temperature=CANARY))
    await post("wrong key", chat("m"), headers={"authorization": f"Bearer sk-dm_{CANARY}"})
    await post("unknown path", {}, path=f"/v1/{CANARY}?a={CANARY}")
    await post("query", chat("m"), path=f"/v1/chat/completions?a={CANARY}")
    await post("responses", {"model": "m", "input": CANARY}, path="/v1/responses")
    await post("native", {"inputs": CANARY}, path="/models/m")
    for status in (400, 401, 404, 429, 500):
        refusal = {"error": {"message": f"You said {CANARY}", "code": f"You said {CANARY}"}}
        await post(f"refused by {status}", chat("m"), answers(status, refusal))
    await post("garbage", chat("m"), http(200, CANARY.encode()))
    broken = chat("m", stream=True)
    await post("stream that is reset", broken, reset)
    failure = event({"error": {"message": CANARY, "code": CANARY}})
    await post("error event", broken, STREAM_HEAD + CHUNK + failure)
    await post("empty upstream", chat("m"), _close)
    upstream.play(answers(200, {"text": CANARY}))
    file = {"file": (f"{CANARY}.wav", b"RIFF" + CANARY.encode(), "audio/wav")}
    reply = await client.post("/v1/audio/transcriptions", data={"model": "ears"}, files=file)
    said.append(("file name", reply.status_code))
    reply = await client.get("/admin/keys", headers={"authorization": f"Bearer {ADMIN_KEY}"})
    said.append(("admin", reply.status_code))
    return said


async def _close(visit: Visit) -> None:
    visit.close()


async def leave(client: httpx.AsyncClient, upstream: Upstream) -> None:
    """Ask for a stream, and leave in its midst."""
    upstream.rest()
    upstream.play(hang)
    async with client.stream("POST", "/v1/chat/completions", json=chat("m", stream=True)) as reply:
        async for _ in reply.aiter_bytes():
            break
    await upstream.visits[-1].gone(within_seconds=PATIENCE_SECONDS)


@pytest.mark.parametrize("payloads", [False, True], ids=["without payloads", "with payloads"])
async def test_nothing_that_was_said_is_logged_unless_payloads_are(tmp_path, upstream, payloads):
    logs = f'level = "debug"\npayloads = {str(payloads).lower()}'
    async with gateway(tmp_path, upstream, logs=logs) as (served, client):
        key = client.headers["authorization"].removeprefix("Bearer ")
        await leave(client, upstream)
        said = await say_all(client, upstream)
        shown = served.said
        await served.end(signal.SIGTERM)
    logged = served.said.removeprefix(shown)
    lines = requests_of(logged)
    assert sorted(line["status"] for line in lines) == sorted(
        [status for _, status in said] + [200]
    )
    assert {200, 400, 401, 404, 429, 502} <= {line["status"] for line in lines}
    assert [line.get("code") for line in lines if line.get("disconnected")] == [None]
    assert (CANARY in logged) is payloads
    assert not [secret for secret in (*SECRETS, key, key[14:]) if secret in logged]
    assert key[6:14] in logged  # its public id


async def test_no_password_of_a_store_is_logged(tmp_path, upstream):
    url = f"redis://user:{STORE_PASSWORD}@127.0.0.1:1/0"
    store = f'state = "{url}"\ncache = "{url}"'
    async with gateway(tmp_path, upstream, logs='level = "debug"', store=store) as (served, client):
        upstream.play(answers(200, ANSWER))
        reply = await client.post("/v1/chat/completions", json=chat("m"))
        shown = served.said
        await served.end(signal.SIGTERM)
    logged = served.said.removeprefix(shown)
    [line] = requests_of(logged)
    assert reply.status_code == 200
    assert line["degraded"]
    assert "is not asked for now" in served.said
    assert STORE_PASSWORD not in served.said


async def test_a_line_has_what_the_ledger_has(tmp_path, upstream):
    async with gateway(tmp_path, upstream, logs="") as (served, client):
        upstream.play(answers(200, ANSWER))
        reply = await client.post("/v1/chat/completions", json=chat("m"))
        await client.get("/health")
        await served.end(signal.SIGTERM)
    [line] = requests_of(served.said)
    assert line["id"] == reply.headers["x-request-id"]
    assert line["method"] == "POST"
    assert line["route"] == "/v1/chat/completions"
    assert (line["model"], line["upstream"], line["target"]) == ("m", "u", "theirs")
    assert (line["input_tokens"], line["output_tokens"], line["finish"]) == (12, 34, "stop")
    assert line["bytes"] == len(reply.content)
    assert line["ms"] >= line["upstream_ms"]
    assert line["cache"] == "bypass"


async def test_a_reader_that_hangs_holds_up_no_request(tmp_path, upstream):
    """Nobody reads what the gateway writes, more than its pipe holds."""
    async with gateway(tmp_path, upstream, logs="payloads = true") as (served, client):
        upstream.play(answers(200, ANSWER))
        long = chat("m", messages=[{"role": "user", "content": "word " * 1000}])
        for _ in range(8):
            replies = await asyncio.gather(
                *(client.post("/v1/chat/completions", json=long) for _ in range(25))
            )
            assert {reply.status_code for reply in replies} == {200}
        served.process.send_signal(signal.SIGTERM)
        await wait_until(lambda: not is_running(served.process.pid))
        await served.process.communicate()
        assert served.process.returncode == 0
