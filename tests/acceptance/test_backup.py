"""Backing up and restoring, by the commands of `deploy/docs/upgrade.md`."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.scripted_upstream import Upstream, Visit
from tests.served import serve

pytestmark = pytest.mark.anyio

PAGE = (Path(__file__).parents[2] / "deploy" / "docs" / "upgrade.md").read_text(encoding="utf-8")
ANSWER = {
    "choices": [{"index": 0, "message": {"content": "Fig"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 20},
}


async def answer(visit: Visit) -> None:
    body = json.dumps(ANSWER).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    await visit.send(head % len(body) + body)


def commands(section: str) -> list[str]:
    """Return the commands that a section of the page shows, but for the one that serves."""
    text = PAGE.split(f"## {section}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\$ ((?:.+\\\n)*.+)$", text, re.MULTILINE)
    return [command for command in found if not command.startswith("dragoman serve")]


async def run(folder: Path, command: str) -> str:
    """Run one of the page's commands as a shell would, and return what it prints."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        shell=True,
        cwd=folder,
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": path, "DRAGOMAN_DATA_DIR": str(folder / "data")},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def ask(port: int, key: str) -> None:
    async with httpx.AsyncClient(headers={"authorization": f"Bearer {key}"}) as client:
        body = {"model": "m", "messages": [{"role": "user", "content": "A fruit?"}]}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        assert (await client.post(url, json=body)).status_code == 200


async def test_a_copy_that_is_made_while_it_serves_serves_again(tmp_path: Path) -> None:
    async with Upstream(answer) as upstream:
        config = tmp_path / "dragoman.toml"
        config.write_text(
            f'[[upstreams]]\nname = "u"\ndialect = "openai"\nbase_url = "{upstream.url}/v1"\n'
            '[[models]]\nid = "m"\ntargets = [{ upstream = "u" }]\n'
        )
        async with serve(tmp_path / "data", "--config", config) as gateway:
            port, key = await gateway.ready(), await gateway.key()
            await ask(port, key)
            await until_recorded(tmp_path, 1)
            for command in commands("Back up"):
                await run(tmp_path, command)
            await ask(port, key)  # which the copy does not have
            assert await gateway.end(signal.SIGTERM) == 0

        *copies, reconcile = commands("Restore")
        for command in copies:
            await run(tmp_path, command)
        async with serve(tmp_path / "restored", "--config", config) as gateway:
            port = await gateway.ready()
            assert "agree" in await run(tmp_path, reconcile)
            await ask(port, key)
            assert await gateway.end(signal.SIGTERM) == 0
        assert len(await records(tmp_path, "restored")) == 2


async def until_recorded(folder: Path, count: int) -> None:
    while len(await records(folder, "data")) < count:  # noqa: ASYNC110 (see below)
        await asyncio.sleep(0.1)  # the book is another process's


async def records(folder: Path, name: str) -> list[dict[str, object]]:
    printed = await run(folder, f"dragoman usage --json --data-dir {name}")
    found: list[dict[str, object]] = json.loads(printed)
    return found
