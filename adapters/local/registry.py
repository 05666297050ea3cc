"""The models that one server serves: from a model id to the object that answers for it.

A modality is one file with one class that satisfies `Model`; the server knows nothing else of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from adapters.local.problems import UnknownModel
from adapters.local.warmup import Warmup


class Operation(StrEnum):
    """What is asked of a model: the last segment of the path, or none."""

    PREDICT = "predict"
    GENERATE = "generate"
    GENERATE_STREAM = "generate_stream"
    TOKENIZE = "tokenize"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request as a model gets it: raw, because each modality has its own body."""

    operation: Operation
    body: bytes
    content_type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """An answer that is complete."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "application/json"
    status: int = 200


class Frames(Protocol):
    """The body of a stream. `complete` turns true when its last frame was a good end."""

    complete: bool

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    def cancel(self) -> None:
        """Stop the computation behind it. May be called often, and after the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """An answer that comes in frames; whoever takes it calls `frames.cancel` in the end."""

    frames: Frames
    headers: Mapping[str, str] = field(default_factory=dict)
    media_type: str = "text/event-stream"


class Model(Protocol):
    """One served model. `answer` may be called while `warmup` says that it is ready.

    `framework` is what computes, `operations` are those that it answers, and `body_limit_bytes`
    is how long the body of a request may be.
    """

    id: str
    task: str
    framework: str
    operations: frozenset[Operation]
    body_limit_bytes: int
    warmup: Warmup

    async def answer(self, question: Question) -> Whole | Streamed:
        """Answer one request. Raises Problem. Cancelling it stops the computation."""

    def info(self) -> Mapping[str, Any]:
        """Return what `/info` tells about the model's limits, beside its id and its task."""

    def close(self) -> None:
        """Stop all computation and wait for its end. Blocks: call it off the event loop."""


class Registry:
    """The served models by id. The first one also answers at the root paths."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = {model.id: model for model in models}
        self.default = models[0]

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def find(self, model_id: str) -> Model:
        """Return the model of that id. Raises UnknownModel."""
        try:
            return self._models[model_id]
        except KeyError:
            raise UnknownModel(model_id) from None
