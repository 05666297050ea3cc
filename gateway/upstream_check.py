"""Whether upstreams answer, and if not what the operator has to do.

Nothing that is asked costs anything: what tells a server's state, or a request without a prompt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from adapters import refusals
from adapters.base import Call, Task
from adapters.errors import UpstreamError
from adapters.http import Upstream as Server
from gateway.upstreams.hub import HubModels
from gateway.upstreams.target import Target

_LONGEST_BODY_BYTES = 1024 * 1024
_GONE = MappingProxyType(
    {"api-inference.huggingface.co": "https://router.huggingface.co/hf-inference"}
)
"""Hosts that serve no more → the base URL that took their place."""

# What each dialect's servers answer without making anything.
_PROBES: Mapping[str, str] = MappingProxyType(
    {
        "hf": "/status/{model}",
        "hf-inference": "/status/{model}",
        "tgi": "/health",
        "tei": "/health",
        "fal": "/",
        "replicate": "/account",
    }
)
_LIST = "/models"  # what all others have
_BY_TASK: Mapping[str, str] = MappingProxyType(
    {
        Task.CHAT: "/chat/completions",
        Task.IMAGE: "/images/generations",
        Task.SPEECH: "/audio/speech",
        Task.EMBEDDING: "/embeddings",
        Task.TRANSCRIPTION: "/audio/transcriptions",
    }
)
# Where work is asked for, for servers that have no other path which all of them know.
_WORK: Mapping[str, str] = MappingProxyType(
    {
        "hf": "/models/{model}",
        "hf-inference": "/models/{model}",
        "tgi": "/generate",
        "tei": "/embed",
        "fal": "/{model}",
        "replicate": "/models/{model}/predictions",
    }
)
_ADVICE: Mapping[int, str] = MappingProxyType(
    {
        401: "it does not know the credential: see 'api_key_env' or 'api_key_file'",
        402: "the account of the credential has no credits left: add some, or wait for the next "
        "period's",
        403: "the credential may not do this: it lacks a permission, or the model is gated and "
        "its account has not accepted the licence",
        405: "it takes no such requests: see 'base_url' and 'dialect'",
        407: "a proxy in between wants a credential of its own",
        410: "what was there is gone for good: see 'base_url'",
    }
)


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a server says to one request."""

    path: str
    status: int
    is_page: bool
    sentence: str

    @property
    def is_nowhere(self) -> bool:
        """Whether nothing seems to be at that path but what answers for all that is nowhere."""
        return self.status == 404 or self.is_page

    def verdict(self) -> tuple[bool, str]:
        """Return whether the gateway can work with such a server, and why."""
        if self.status == 200:
            return True, "answers"
        detail = f"answers {self.path} with {self.status}"
        if advice := _ADVICE.get(self.status):
            return False, f"{detail}: {advice}"
        return self.status < 500, f"{detail}: {self.sentence}" if self.status >= 500 else detail


async def examine_target(target: Target, task: str) -> tuple[bool, str]:
    """Return whether the upstream can be asked for the target's model, and why.

    Any answer will do but a refusal of the gateway itself, or that there is nothing at all.
    """
    upstream = target.upstream
    if instead := _GONE.get(upstream.server.host):
        return False, f"{upstream.server.host} is gone for good: set 'base_url' to {instead}"
    dialect, name = upstream.dialect_name, target.model
    probe = _PROBES.get(dialect, _LIST).format(model=name)
    work = _WORK.get(dialect, _BY_TASK.get(task, "")).format(model=name)
    try:
        answer = await _ask(upstream.server, Call(method="GET", path=probe, body=b""))
        if answer.is_nowhere:
            other = await _ask(upstream.server, Call(path=work, body=b"{}"))
            if other.is_nowhere:
                kind = "web pages" if answer.is_page or other.is_page else "404"
                return False, f"answers {probe} and {work} with {kind}: see 'base_url'"
    except UpstreamError as exc:
        return False, exc.message
    return answer.verdict()


async def examine_hub(hub: HubModels) -> AsyncIterator[tuple[str, bool, str]]:
    """Yield a line each for the Hub and its router: what it is, whether it is well, and why."""
    places = {"hub": (hub.api.server, "/api/whoami-v2"), "hub router": (hub.router.server, _LIST)}
    for subject, (server, path) in places.items():
        try:
            answer = await _ask(server, Call(method="GET", path=path, body=b""))
        except UpstreamError as exc:
            yield subject, False, exc.message
            continue
        if answer.is_nowhere:
            what = "a web page" if answer.is_page else "404"
            yield subject, False, f"answers {path} with {what}: see 'url' and 'router_url'"
        else:
            ok, detail = answer.verdict()
            yield subject, ok, hub.router.discreet(detail)


async def _ask(server: Server, call: Call) -> _Answer:
    reply = await server.open(call)
    body = await reply.read(_LONGEST_BODY_BYTES)
    is_page = reply.headers.get("content-type", "").startswith("text/html") and reply.status < 400
    error = refusals.from_response(reply.status, reply.headers, body)
    return _Answer(call.path, reply.status, is_page, error.message)
