"""What an application sees through one client, as JSON on standard output.

    python run_scenarios.py SCENARIOS ROOT KEY

SCENARIOS is a Python file. Its public functions are called one after the other with where the
gateway is; each one's outcome is `{"saw": what it returned}` or `{"raised": [class, message]}`.
`run_scenarios.mjs` does the same in Node.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

LOCAL = {
    "text": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "image": "dragoman/emoji-flow",
    "speech": "hibari-tts/heart",
    "embedding": "sentence-transformers/all-MiniLM-L6-v2",
    "transcription": "openai/whisper-tiny.en",
}


@dataclass(frozen=True)
class Gateway:
    """Where it is, a key to it, and one whose quota is less than any request."""

    root: str
    key: str
    spent_key: str

    def model(self, name: str) -> str:
        """Return the URL of a model, given its name or what a local one is for."""
        return f"{self.root}/models/{LOCAL.get(name, name)}"


async def outcome(scenario: Callable[[Gateway], Any], gateway: Gateway) -> dict[str, Any]:
    """Return what a scenario saw or raised: the others are to run all the same."""
    is_async = inspect.iscoroutinefunction(scenario)
    called = scenario(gateway) if is_async else asyncio.to_thread(scenario, gateway)
    told: Any
    [told] = await asyncio.gather(called, return_exceptions=True)
    if isinstance(told, BaseException):
        return {"raised": [type(told).__name__, str(told)]}
    return {"saw": told}


async def main(path: str, root: str, key: str) -> None:
    module = runpy.run_path(path)
    gateway = Gateway(root, key, os.environ["SPENT_KEY"])
    scenarios = {
        name: value
        for name, value in module.items()
        if inspect.isfunction(value)
        and value.__globals__["__file__"] == path
        and not name.startswith("_")
    }
    facts = {name: await outcome(each, gateway) for name, each in scenarios.items()}
    print(json.dumps(facts))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
