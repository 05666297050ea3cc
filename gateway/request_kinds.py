"""What kinds of JSON requests there are: by which route each comes, and how its body is checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pydantic import TypeAdapter

from adapters.base import Json, Task
from gateway.errors import BadRequest
from gateway.requests import CHAT, COMPLETION
from gateway.requests_embedding import EMBEDDING
from gateway.requests_image import IMAGE
from gateway.requests_speech import SPEECH


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request."""

    route: str
    task: Task
    schema: TypeAdapter[Any]


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.route: kind
        for kind in (
            Kind("/v1/chat/completions", Task.CHAT, CHAT),
            Kind("/v1/completions", Task.COMPLETION, COMPLETION),
            Kind("/v1/images/generations", Task.IMAGE, IMAGE),
            Kind("/v1/audio/speech", Task.SPEECH, SPEECH),
            Kind("/v1/embeddings", Task.EMBEDDING, EMBEDDING),
        )
    }
)
"""By route."""

_BY_TASK = {kind.task: kind for kind in KINDS.values()}
# What a body holds that no other kind's does; the first that is there counts.
_MARKS = {
    "messages": Task.CHAT,
    "voice": Task.SPEECH,
    "input": Task.EMBEDDING,
    "size": Task.IMAGE,
    "prompt": Task.COMPLETION,
}


def kind_of(sent: Any, *, route: str | None, task_of: Callable[[str], str | None]) -> Kind:
    """Return the kind of a body as it was sent: that of `route` if it is named, else as it looks.

    `task_of` returns what the model of a name serves, None for one that is not known. Raises
    BadRequest for a route that takes no JSON, and for a model without one that does.
    """
    if route is not None:
        if route not in KINDS:
            raise BadRequest(
                f"Invalid value for 'route': {route[:60]!r}. Supported values are: "
                f"{', '.join(KINDS)}.",
                code="invalid_value",
                param="route",
            )
        return KINDS[route]
    body = sent if isinstance(sent, dict) else {}
    name = body.get("model")
    kind = _infer(body, task_of(name) if isinstance(name, str) else None)
    if kind is None:
        raise BadRequest(
            f"The model {name!r} is asked with a file, not with JSON.",
            code="unsupported_task",
            param="model",
        )
    return kind


def _infer(body: Json, task: str | None) -> Kind | None:
    """Return the kind of a body for a model of `task`. Chat models take two."""
    looks_like = next((task for name, task in _MARKS.items() if name in body), Task.CHAT)
    if task is None:
        return _BY_TASK[looks_like]
    if task == Task.CHAT and looks_like is not Task.CHAT and "prompt" in body:
        return _BY_TASK[Task.COMPLETION]
    return _BY_TASK.get(Task(task))
