"""The contract of a dialect: pure functions between OpenAI's objects and one upstream's wire.

A dialect does no I/O. It turns a `Request` into one or more `Call`s (several when the upstream
makes one choice per call), and what comes back into OpenAI's own objects: `answer` for a whole
body, a `Decoder` for a stream. Whoever calls sends and receives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from adapters.errors import UpstreamError

Json = dict[str, Any]


class Task(StrEnum):
    """What a request wants made."""

    CHAT = "chat"
    COMPLETION = "completion"
    IMAGE = "image"
    SPEECH = "speech"
    EMBEDDING = "embedding"
    TRANSCRIPTION = "transcription"
    PIPELINE = "pipeline"  # any other of the native API's: OpenAI has none like it


class ToolStyle(StrEnum):
    """How a model family writes tool calls into its text."""

    HERMES = "hermes"  # <tool_call>{"name", "arguments"}</tool_call>
    LLAMA = "llama"  # [<|python_tag|>]{"name", "parameters"}
    MISTRAL = "mistral"  # [TOOL_CALLS][{"name", "arguments"}, …]
    JSON = "json"  # one bare {"name", "arguments"}: what a grammar forced


@dataclass(frozen=True, slots=True)
class Media:
    """An image or a sound as it came. `type` is what the sender called it: it may be wrong."""

    data: bytes
    type: str = ""


@dataclass(frozen=True, slots=True)
class Link:
    """Where an image or a sound is kept for a while: whoever sends the calls fetches it by GET.

    Only from `hosts` and what is below them: an upstream's answer chooses no other.
    """

    url: str
    hosts: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One client's request as a dialect gets it.

    `body` holds OpenAI's fields after validation, without nulls. `prompts` are the rendered
    texts (one for a chat, one per prompt for completions, one per piece of what is to be
    spoken), empty for a translator that does not ask for them (`renders`). `model` is the
    upstream's name of the model, `media` the sound to be transcribed. `parameter_names`: OpenAI's
    parameter → the model's own, where it has one and the native API leaves the name to the model.

    `use_cache`: False if the client wants no answer that the upstream has given before.
    `images` are data URLs, in the order of a chat's image parts; in its prompt each is to stand
    where `image_mark` does.
    """

    task: Task
    model: str
    body: Json
    stream: bool = False
    prompts: tuple[str, ...] = ()
    tool_style: ToolStyle | None = None
    max_tokens_default: int = 1024
    media: Media | None = None
    images: tuple[str, ...] = ()
    image_mark: str = ""
    parameter_names: Mapping[str, str] = field(default_factory=dict)
    use_cache: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One HTTP request to an upstream, relative to its base URL; `index` is its first choice.

    `path` is quoted when it is sent, `query` (without its `?`) goes as it is.
    """

    path: str
    body: bytes
    query: str = ""
    index: int = 0
    method: str = "POST"
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """The calls that make up one request, and the parameters that had to be left out."""

    calls: tuple[Call, ...]
    ignored: tuple[str, ...] = ()


class Decoder(Protocol):
    """One stream's state: bytes in, OpenAI's chunk objects out (`choices`, maybe `usage`).

    `done` turns true when nothing more is wanted; `ended` when the upstream has said its last
    word, so that only the end of the body is to come. Done but not ended: it must be cut off.
    `failure` is what came after the chunks of the same read: raise it once they are handed out.
    `tokens`: how many have come, None where the protocol does not show them one by one.
    """

    done: bool
    ended: bool
    failure: UpstreamError | None

    @property
    def tokens(self) -> int | None: ...

    def feed(self, data: bytes) -> list[Json]:
        """Return the chunks completed by `data`. Raises UpstreamError if an error comes first."""

    def end(self) -> list[Json]:
        """Return what was held back at the end of the body. Raises Interrupted if cut short."""


class Translator(Protocol):
    """One task in one wire format. `renders`: it takes prompts, so a template is applied before."""

    renders: bool

    def plan(self, request: Request) -> Plan:
        """Return the calls. Raises DialectError for what must not be left out in silence."""

    def answer(
        self, request: Request, call: Call, *, headers: Mapping[str, str], body: bytes
    ) -> Json:
        """Return OpenAI's answer object of one call's 200 body.

        Text: `choices`, `usage`. Image: `data` of `{"media": Media}`. Speech: `{"media": Media}`.
        In place of a Media a Link may stand, of what the upstream did not send along.
        Embedding: `data` of `{"embedding": [float, …]}`, `usage`. Transcription: `text`, maybe
        `segments` and `words` (both `{"text", "timestamp": [start, end]}`), and `whole`, the
        upstream's object if it speaks OpenAI.
        """


class StreamTranslator(Translator, Protocol):
    """A task whose answers can be streamed as they are made."""

    def decoder(self, request: Request, call: Call) -> Decoder:
        """Return a fresh decoder of one call's stream."""


Dialect = Mapping[Task, Translator]
"""A wire format: what it can do, and who translates it."""
