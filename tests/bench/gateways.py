"""How each gateway is installed, configured and started: one function per row.

Every gateway serves the model `MODEL` of the same upstream from one process or worker, keeps
its own limits out of the way, and writes nothing per request that it can be told not to.
Dragoman runs as it is meant to run: a key with limits that never bind, quotas, ledger, cache.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench.answers import MODEL
from tests.bench.client import Target
from tests.bench.upstream import HOST
from tests.ports import free_port

SMG = "smg"
_VERSIONS = {"smg": "smg==1.13.0", "litellm": "litellm[proxy]==1.106.2"}
_COMMAND_SECONDS = 900
_LIMITS = {
    "--rpm": 10_000_000,
    "--tpm": 10_000_000_000,
    "--concurrency": 10_000,
    "--requests-per-day": 1_000_000_000,
    "--tokens-per-day": 1_000_000_000_000,
}


class Unavailable(Exception):
    """This gateway cannot be measured here; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a gateway is set up. `scratch` is empty and its own; `peers` survives the run."""

    scratch: Path
    peers: Path
    upstream_port: int
    tokenizer: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A gateway ready to be started, any number of times.

    `completions`: it is asked for text completions, not chats.
    """

    command: tuple[str, ...]
    port: int
    health_path: str = "/health"
    key: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    completions: bool = False

    @property
    def target(self) -> Target:
        """Where to send requests."""
        return Target(host=HOST, port=self.port, key=self.key, completions=self.completions)


Recipe = Callable[[Site], Launch]


def dragoman_openai(site: Site) -> Launch:
    """Return Dragoman before an upstream that speaks OpenAI."""
    return _dragoman(site, dialect="openai", base_path="/v1")


def dragoman_hf(site: Site) -> Launch:
    """Return Dragoman before the native API, which takes text: without a template, no chats."""
    return _dragoman(site, dialect="hf")


def dragoman_template(site: Site) -> Launch:
    """Return Dragoman before the native API, rendering a chat template. Raises Unavailable."""
    if not site.tokenizer.is_dir():
        raise Unavailable(f"no folder {str(site.tokenizer)!r}: name one with --tokenizer")
    return _dragoman(site, dialect="hf", tokenizer=site.tokenizer.resolve())


def smg(site: Site) -> Launch:
    """Return SMG as a plain router, its least work. Raises Unavailable."""
    port, metrics_port = free_port(), free_port()
    command = (
        *(str(_peer(site, "smg")), "launch", "--host", HOST, "--port", str(port)),
        *("--worker-urls", f"http://{HOST}:{site.upstream_port}", "--policy", "round_robin"),
        *("--prometheus-host", HOST, "--prometheus-port", str(metrics_port)),
        *("--log-level", "error"),
    )
    return Launch(command=command, port=port)


def litellm(site: Site) -> Launch:
    """Return the LiteLLM proxy without a database. Raises Unavailable."""
    port = free_port()
    config = site.scratch / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        f"  - model_name: {MODEL}\n"
        "    litellm_params:\n"
        f"      model: openai/{MODEL}\n"
        f"      api_base: http://{HOST}:{site.upstream_port}/v1\n"
        "      api_key: none\n"
    )
    key = "sk-" + os.urandom(24).hex()
    command = (str(_peer(site, "litellm")), "--config", str(config), "--num_workers", "1")
    return Launch(
        command=(*command, "--host", HOST, "--port", str(port)),
        port=port,
        health_path="/health/liveliness",
        key=key,
        # Without the local map it tries to fetch one, and waits for that, at every start.
        environment={
            "LITELLM_MASTER_KEY": key,
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_LOG": "ERROR",
        },
    )


OWN: Mapping[str, Recipe] = {
    "dragoman-openai": dragoman_openai,
    "dragoman-hf": dragoman_hf,
    "dragoman-template": dragoman_template,
}
PEERS: Mapping[str, Recipe] = {SMG: smg, "litellm": litellm}


def _dragoman(
    site: Site, *, dialect: str, base_path: str = "", tokenizer: Path | None = None
) -> Launch:
    program = Path(sys.executable).with_name("dragoman")
    if not program.exists():
        raise Unavailable(f"{program} is not there: `make serve ARGS=--help` installs it")
    config = site.scratch / "dragoman.toml"
    config.write_text(
        f'[[upstreams]]\nname = "bench"\ndialect = "{dialect}"\n'
        f'base_url = "http://{HOST}:{site.upstream_port}{base_path}"\n\n'
        f'[[models]]\nid = "{MODEL}"\ntask = "chat"\n'
        f'targets = [{{ upstream = "bench", model = "{MODEL}" }}]\n'
        + (f'tokenizer = "{tokenizer}"\n' if tokenizer else "")
    )
    port = free_port()
    places = ("--config", str(config), "--data-dir", str(site.scratch / "data"))
    serve = (str(program), "serve", *places, "--host", HOST, "--port", str(port))
    return Launch(
        command=(*serve, "--workers", "1"),
        port=port,
        key=_key(program, places),
        completions=dialect == "hf" and tokenizer is None,
    )


def _key(program: Path, places: tuple[str, ...]) -> str:
    """Return a fresh key, with every limit that costs a look at a counter."""
    limits = [str(word) for limit in _LIMITS.items() for word in limit]
    printed = _output(str(program), "keys", "create", "--name", "bench", *limits, "--json", *places)
    key = re.search(r"sk-dm_[0-9A-Za-z]+", printed)
    if key is None:
        raise Unavailable(f"`keys create --json` printed no key but {printed[:300]!r}")
    return key[0]


def _peer(site: Site, name: str) -> Path:
    """Return the peer's program, installed into an environment of its own if need be."""
    home = site.peers / name
    program = home / "bin" / name
    if program.exists():
        return program
    print(f"  installing {_VERSIONS[name]} into {home} …", file=sys.stderr, flush=True)
    _output(sys.executable, "-m", "venv", str(home))
    _output(str(home / "bin" / "pip"), "install", "--quiet", _VERSIONS[name])
    return program


def _output(*command: str) -> str:
    """Return what `command` prints. Raises Unavailable when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(str(error)) from error
    if done.returncode:
        words = " ".join(command[:3])
        raise Unavailable(f"`{words} …` exited with {done.returncode}: {done.stderr[-600:]}")
    return done.stdout
