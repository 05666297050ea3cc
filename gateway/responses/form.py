"""How answers are told to clients of the Responses API: whole, or in events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from adapters.base import Json
from adapters.errors import Interrupted
from gateway.answers import Head
from gateway.chunks import StreamEncoder
from gateway.errors import GatewayError
from gateway.folding import unfold
from gateway.responses.objects import Echo, Status, ending, failure, response, usage_of
from gateway.responses.output import Output
from gateway.responses.refusals import in_own_words
from gateway.responses.tools import Toolbox

_encode = msgspec.json.encode


@dataclass(frozen=True, slots=True)
class ResponsesForm:
    """The form of one request's answer. `echo`: what it repeats of the request."""

    echo: Echo
    toolbox: Toolbox

    @property
    def name(self) -> str:
        """What tells it from other forms: all that it repeats."""
        return f"responses {_encode(self.echo.fields).decode()}"

    def whole(self, head: Head, answers: Sequence[Json], usage: Json) -> bytes:
        """Return a response object. Raises Interrupted for an answer without choices."""
        choices = [choice for answer in answers for choice in answer.get("choices") or ()]
        if not choices:
            raise Interrupted("The upstream answered without choices.")
        answer = _Answer(head, self)
        finish = choices[0].get("finish_reason") or "stop"
        whole = {"choices": [choices[0] | {"index": 0, "finish_reason": finish}]}
        answer.add(unfold(whole))
        _, told = answer.end(usage)
        return _encode(told)

    def encoder(self, head: Head, *, choices: int, body: Json) -> EventEncoder:
        """Return what encodes events. There is one choice."""
        return EventEncoder(_Answer(head, self))


class EventEncoder:
    """One stream's frames. `finish`: the finish reason of the chat.

    Events are numbered from 0. There is no `[DONE]`: the last event holds the whole response.
    """

    def __init__(self, answer: _Answer) -> None:
        self._answer = answer
        self._next = 0

    @property
    def finish(self) -> str | None:
        return self._answer.finish

    def encode(self, chunk: Json) -> bytes:
        """Return the frames of one chunk. Raises Interrupted for what no answer may hold."""
        events = self._answer.add(chunk)
        return self._open() + self._frames(events)

    def end(self, usage: Json) -> bytes:
        """Return the closing frames. Raises Interrupted while there is no finish reason."""
        events, told = self._answer.end(usage)
        last = {"type": f"response.{told['status']}", "response": told}
        return self._open() + self._frames([*events, last])

    def fail(self, error: GatewayError) -> bytes:
        """Return the frames that end a stream which cannot go on."""
        told = self._answer.fail(error)
        return self._open() + self._frames([{"type": "response.failed", "response": told}])

    def _open(self) -> bytes:
        """Return the first frames, if they are still to come."""
        if self._next:
            return b""
        told = self._answer.begin()
        names = ("response.created", "response.in_progress")
        return self._frames({"type": name, "response": told} for name in names)

    def _frames(self, events: Iterable[Json]) -> bytes:
        frames = b""
        for event in events:
            said = _encode({**event, "sequence_number": self._next})
            frames += b"event: %b\ndata: %b\n\n" % (event["type"].encode(), said)
            self._next += 1
        return frames


class _Answer:
    """One response as far as it came."""

    def __init__(self, head: Head, form: ResponsesForm) -> None:
        self._head = head
        self._echo = form.echo
        self._chunks = StreamEncoder(head, choices=1, include_usage=False)
        self._output = Output(head.id, form.toolbox)

    @property
    def finish(self) -> str | None:
        return self._chunks.finish

    def begin(self) -> Json:
        """Return the response before anything is said."""
        return response(self._head, self._echo, status="in_progress")

    def add(self, chunk: Json) -> list[Json]:
        """Take in a chat's chunk, and return its events. Raises Interrupted."""
        return [
            event for choice in self._chunks.choices_of(chunk) for event in self._output.add(choice)
        ]

    def end(self, usage: Json) -> tuple[list[Json], Json]:
        """Return the last events, and the response. Raises Interrupted if it is not whole."""
        self._chunks.end({})
        status, details = ending(self.finish)
        events = self._output.end(status)
        return events, self._told(status, usage=usage_of(usage), incomplete_details=details)

    def fail(self, error: GatewayError) -> Json:
        """Return the response that goes no further."""
        self._output.end("incomplete")
        return self._told("failed", error=failure(in_own_words(error)))

    def _told(self, status: Status, **rest: Json | None) -> Json:
        return response(self._head, self._echo, status=status, output=self._output.items(), **rest)
