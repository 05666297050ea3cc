"""An exchange of every kind, and the steps in which its upstream answers it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import httpx

from gateway.amounts import Usage
from gateway.audio import Pcm, encode
from tests.acceptance.recordings import LAST_CHUNK, chunk
from tests.gateway.image_route.painting import as_json, http, painted
from tests.gateway.running import TOKENIZER

Json = dict[str, Any]

# What is asked, and what that is in tokens.
PROMPT = "Which fruit is red?"
RENDERED_TOKENS, PROMPT_TOKENS = 14, 5  # by the tokenizer: in its model's template, and bare
GUESSED_TOKENS = 5  # without a tokenizer: 19 characters, four to a token
MOST_CHAT_TOKENS, MOST_PROMPT_TOKENS = 16, 8  # a third of its bytes, and what may stand around it
TOLD_TOKENS = 7  # by the upstream
MOST_INPUT_TOKENS = 3 * 4  # three short texts with the marks that encoders put around them

HASTY_SECONDS = 2.0  # patience of the upstream `hasty`

SOUND_MS = 250
SOUND = Pcm(24_000, 1, bytes(24 * 2 * SOUND_MS))
SENTENCES = [f"Sentence {at} {'word ' * 50}ends." for at in range(3)]
SPOKEN = [267, 267, 266]  # characters, the blank behind each sentence but the last included


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """`used[k]` is what the gateway has received after `k` of the `steps`.

    A step is a visit's number and what the upstream then sends it. `seen` counts the steps that
    show in what the client has read; None where nothing shows before all is there.
    """

    path: str
    request: Json
    steps: tuple[tuple[int, bytes], ...]
    used: tuple[Usage, ...]
    finish: str | None = None
    seen: Callable[[bytes], int] | None = None

    @property
    def at_once(self) -> bytes:
        """What answers each of its visits in one go."""
        return b"".join(data for number, data in self.steps if number == 0)

    async def ask(self, client: httpx.AsyncClient) -> httpx.Response:
        """Return the client's answer."""
        return await client.post(self.path, **self.request)

    def having(self, **fields: Any) -> Kind:
        """Return it with other fields in its JSON."""
        return replace(self, request={"json": {**self.request["json"], **fields}})


def settings_of(url: str) -> Json:
    """Return settings with a model for every kind and prices that tell all amounts apart."""
    price = {
        "input_usd_per_million": 0.35,
        "output_usd_per_million": 0.7,
        "usd_per_image": 0.02,
        "usd_per_million_characters": 15,
        "usd_per_audio_minute": 0.006,
    }

    def model(name: str, **more: Any) -> Json:
        return {"id": name, "targets": [{"upstream": name.split("/")[0]}], "price": price, **more}

    def upstream(name: str, dialect: str, base_url: str = url, **more: Any) -> Json:
        return {"name": name, "dialect": dialect, "base_url": base_url, **more}

    return {
        "cache": {"ttl_seconds": 0},  # each answer is made anew, and so counts in full
        "retries": {"attempts": 1},  # what is played is played once
        "upstreams": [
            upstream("hf", "hf", load_wait_seconds=0),
            upstream("openai", "openai"),
            upstream("hasty", "openai", timeout_seconds=HASTY_SECONDS),
            upstream("gone", "openai", "http://127.0.0.1:1"),
        ],
        "models": [
            model("hasty/text"),
            model("gone/text"),
            model("openai/text"),
            model("hf/text", tokenizer=str(TOKENIZER)),
            model("hf/image", task="image"),
            model("hf/speech", task="speech"),
            model("hf/embedding", task="embedding", embedding={"batch_size": 1}),
            model("hf/transcription", task="transcription"),
        ],
    }


def untold(kind: Kind) -> Kind:
    """Return OpenAI's `kind` of an upstream that does not tell its usage."""
    *before, (visit, last) = kind.steps
    told = b'"usage": {"prompt_tokens": 7, "completion_tokens": 3}'
    assert told in last
    silent = last.replace(told, b'"usage": null'.ljust(len(told)))
    tokens = 3 if before else 1
    return replace(kind, steps=(*before, (visit, silent)), used=(_counted(GUESSED_TOKENS, tokens),))


def price_of(used: Usage) -> int:
    """Return what `used` costs in nano-USD by the prices above."""
    text = 350 * used.input_tokens + 700 * used.output_tokens
    return text + 20_000_000 * used.images + 15_000 * used.characters + 100 * used.audio_ms


def _counted(tokens: int, output: int = 0) -> Usage:
    return Usage(input_tokens=tokens, output_tokens=output, estimated=True)


def _told(output: int) -> Usage:
    return Usage(input_tokens=TOLD_TOKENS, output_tokens=output)


def _stream(*payloads: object, done: bytes = b"") -> tuple[tuple[int, bytes], ...]:
    """Return an upstream's stream, an event in each step."""
    *events, last = [chunk(f"data: {json.dumps(payload)}\n\n".encode()) for payload in payloads]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
    end = last + (chunk(done) if done else b"") + LAST_CHUNK
    first, *others = [*events, end]
    return ((0, head + b"\r\n" + first), *((0, event) for event in others))


def _seen_text(read: bytes) -> int:
    return read.count(b'" one"') + (b'"finish_reason":"stop"' in read)


def _openai_stream(said: Callable[[str | None], Json]) -> tuple[tuple[int, bytes], ...]:
    def event(text: str | None) -> Json:
        reason = None if text else "stop"
        return {"choices": [{"index": 0, **said(text), "finish_reason": reason}]}

    usage = {"prompt_tokens": TOLD_TOKENS, "completion_tokens": 3}
    pieces = [event(" one")] * 3
    return _stream(*pieces, event(None), {"choices": [], "usage": usage}, done=b"data: [DONE]\n\n")


def _openai_used(most: int) -> tuple[Usage, ...]:
    pieces = [_counted(GUESSED_TOKENS, output) for output in (1, 2, 3, 3)]
    return (_counted(most), *pieces, _told(3))


def _native_stream() -> tuple[tuple[int, bytes], ...]:
    piece = {"token": {"id": 1, "text": " one", "logprob": -1, "special": False}}
    details = {"finish_reason": "eos_token", "generated_tokens": 3, "input_length": TOLD_TOKENS}
    end = {"token": {"id": 2, "text": "</s>", "logprob": 0, "special": True}}
    return _stream(piece, piece, end | {"generated_text": " one one", "details": details})


def _native_used(prompt: int) -> tuple[Usage, ...]:
    return (_counted(prompt), _counted(prompt, 1), _counted(prompt, 2), _told(3))


def _each(answer: bytes, count: int) -> tuple[tuple[int, bytes], ...]:
    """Return `count` visits with the same whole answer for each."""
    return tuple((at, answer) for at in range(count))


def _json_kind(path: str, steps: Any, used: Any, *, of: Json, **options: Any) -> Kind:
    return Kind(path=path, request={"json": of}, steps=steps, used=tuple(used), **options)


_chat = partial(_json_kind, "/chat/completions", finish="stop")
_completion = partial(_json_kind, "/completions", finish="stop", seen=_seen_text)
_speech = partial(_json_kind, "/audio/speech")
_image = partial(_json_kind, "/images/generations")

_MESSAGES = [{"role": "user", "content": PROMPT}]
_DETAILS = {"finish_reason": "eos_token", "generated_tokens": 3, "input_length": TOLD_TOKENS}
_NATIVE_ANSWER = as_json([{"generated_text": " one one", "details": _DETAILS}])
_OPENAI_ANSWER = as_json(
    {
        "choices": [{"index": 0, "message": {"content": " one"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": TOLD_TOKENS, "completion_tokens": 3},
    }
)
_FLAC = http(encode(SOUND, "flac"), kind="audio/flac")
_VECTOR = http(b"[[1.0, 2.0]]", kind="application/json").replace(
    b"\r\n\r\n", b"\r\nx-prompt-tokens: 5\r\n\r\n", 1
)
_PICTURES = [Usage(images=count) for count in range(5)]
_SPEECH = {"model": "hf/speech", "voice": "alloy", "response_format": "pcm"}
_PIECES = [Usage(characters=sum(SPOKEN[:count]), audio_ms=SOUND_MS * count) for count in range(4)]

KINDS: Mapping[str, Kind] = {
    "openai-chat": _chat(
        _each(_OPENAI_ANSWER, 1),
        [_counted(MOST_CHAT_TOKENS), _told(3)],
        of={"model": "openai/text", "messages": _MESSAGES},
    ),
    "openai-chat-stream": _chat(
        _openai_stream(lambda text: {"delta": {"content": text} if text else {}}),
        _openai_used(MOST_CHAT_TOKENS),
        of={"model": "openai/text", "messages": _MESSAGES, "stream": True},
        seen=_seen_text,
    ),
    "hf-chat-of-three": _chat(
        _each(_NATIVE_ANSWER, 3),
        [_counted(RENDERED_TOKENS), _told(3), _told(6), _told(9)],
        of={"model": "hf/text", "messages": _MESSAGES, "n": 3},
    ),
    "hf-chat-stream": _chat(
        _native_stream(),
        _native_used(RENDERED_TOKENS),
        of={"model": "hf/text", "messages": _MESSAGES, "stream": True},
        seen=_seen_text,
    ),
    "openai-completion-stream": _completion(
        _openai_stream(lambda text: {"text": text or ""}),
        _openai_used(MOST_PROMPT_TOKENS),
        of={"model": "openai/text", "prompt": PROMPT, "stream": True},
    ),
    "hf-completion-stream": _completion(
        _native_stream(),
        _native_used(PROMPT_TOKENS),
        of={"model": "hf/text", "prompt": PROMPT, "stream": True},
    ),
    "images": _image(
        _each(http(painted()), 4), _PICTURES, of={"model": "hf/image", "prompt": "fox", "n": 4}
    ),
    "images-stream": _image(
        _each(http(painted()), 4),
        _PICTURES,
        of={"model": "hf/image", "prompt": "fox", "n": 4, "stream": True},
        seen=lambda read: read.count(b"event: image_generation.completed\n"),
    ),
    "speech-of-one-piece": _speech(
        _each(_FLAC, 1),
        [Usage(), Usage(characters=10, audio_ms=SOUND_MS)],
        of={**_SPEECH, "input": "Ten signs."},
    ),
    "speech": _speech(
        _each(_FLAC, 3),
        _PIECES,
        of={**_SPEECH, "input": " ".join(SENTENCES)},
        seen=lambda read: len(read) // len(SOUND.samples),
    ),
    "speech-events": _speech(
        _each(_FLAC, 3),
        _PIECES,
        of={**_SPEECH, "input": " ".join(SENTENCES), "stream_format": "sse"},
        seen=lambda read: read.count(b'"speech.audio.delta"'),
    ),
    "embeddings": _json_kind(
        "/embeddings",
        _each(_VECTOR, 3),
        [_counted(MOST_INPUT_TOKENS), *(Usage(input_tokens=5 * count) for count in (1, 2, 3))],
        of={"model": "hf/embedding", "input": ["text 1", "text 2", "text 3"]},
    ),
    "transcription": Kind(
        path="/audio/transcriptions",
        request={
            "files": {"file": ("sound.wav", encode(SOUND, "wav"))},
            # Timestamps are asked for in JSON, which the scripted upstream can read.
            "data": {"model": "hf/transcription", "response_format": "verbose_json"},
        },
        steps=_each(as_json({"text": "Hush."}), 1),
        used=(Usage(), Usage(audio_ms=SOUND_MS)),
    ),
}
