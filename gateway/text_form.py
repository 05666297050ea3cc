"""In which objects a client is told a text: OpenAI's, or those of another face of the gateway."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from adapters.base import Json
from gateway.answers import Head, render_answer
from gateway.chunks import StreamEncoder
from gateway.errors import GatewayError


class TextEncoder(Protocol):
    """One stream's frames. `finish`: the finish reason of the first choice that ended, OpenAI's."""

    @property
    def finish(self) -> str | None: ...

    def encode(self, chunk: Json) -> bytes:
        """Return the frames of one chunk as dialects make them, possibly none.

        Raises Interrupted for what no answer may hold.
        """

    def end(self, usage: Json) -> bytes:
        """Return the closing frames. Raises Interrupted while a choice has no finish reason."""

    def fail(self, error: GatewayError) -> bytes:
        """Return the frames that end a stream which cannot go on."""


class TextForm(Protocol):
    """How answers of text are told. `name` tells it from the others."""

    @property
    def name(self) -> str: ...

    def whole(self, head: Head, answers: Sequence[Json], usage: Json) -> bytes:
        """Return the body of a whole answer, joined from those of its calls.

        Raises Interrupted for answers that are none.
        """

    def encoder(self, head: Head, *, choices: int, body: Json) -> TextEncoder:
        """Return what encodes one stream of `choices` choices, which `body` asked for."""


class OpenAIForm:
    """Chats and completions as OpenAI has them."""

    name = "openai"
    _encoder: ClassVar[type[StreamEncoder]] = StreamEncoder

    def whole(self, head: Head, answers: Sequence[Json], usage: Json) -> bytes:
        """Return a completion object."""
        return render_answer(head, answers, usage)

    def encoder(self, head: Head, *, choices: int, body: Json) -> TextEncoder:
        """Return what encodes chunks."""
        options = body.get("stream_options") or {}
        include_usage = options.get("include_usage") is True
        return self._encoder(head, choices=choices, include_usage=include_usage)


OPENAI_FORM = OpenAIForm()
