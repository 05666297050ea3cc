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
from gateway.responses.request import RESPONSES


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request."""

    route: str
    task: Task
    schema: TypeAdapter[Any]


_CHAT = Kind("/v1/chat/completions", Task.CHAT, CHAT)
_COMPLETION = Kind("/v1/completions", Task.COMPLETION, COMPLETION)
_IMAGE = Kind("/v1/images/generations", Task.IMAGE, IMAGE)
_SPEECH = Kind("/v1/audio/speech", Task.SPEECH, SPEECH)
_EMBEDDING = Kind("/v1/embeddings", Task.EMBEDDING, EMBEDDING)
RESPONSE = Kind("/v1/responses", Task.CHAT, RESPONSES)
"""The only kind whose body is not the exchange's: a chat is made of it."""

PLAIN = (_CHAT, _COMPLETION, _IMAGE, _SPEECH, _EMBEDDING)
"""All others."""

KINDS: Mapping[str, Kind] = MappingProxyType({kind.route: kind for kind in (*PLAIN, RESPONSE)})
"""All, by route."""

_BY_TASK = {kind.task: kind for kind in PLAIN}
# What a body holds that no other kind's does, if the model is not known; the first that is there
# counts.
_MARKS = {
    "messages": _CHAT,
    "voice": _SPEECH,
    "input": _EMBEDDING,
    "size": _IMAGE,
    "prompt": _COMPLETION,
}
_MARKS_OF_CHATS = {"messages": _CHAT, "input": RESPONSE, "prompt": _COMPLETION}


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
    task = task_of(name) if isinstance(name, str) else None
    kind = _infer(body, task)
    if kind is None:
        raise BadRequest(
            f"The model {name!r} is for the task {task!r}, which is not asked with JSON here.",
            code="unsupported_task",
            param="model",
        )
    return kind


def _infer(body: Json, task: str | None) -> Kind | None:
    """Return the kind of a body for a model of `task`. Chat models take three."""
    if task is None or task == Task.CHAT:
        marks = _MARKS if task is None else _MARKS_OF_CHATS
        return next((kind for name, kind in marks.items() if name in body), _CHAT)
    return _BY_TASK.get(Task(task))
