"""llama.cpp in this process: the only file that knows xllamacpp."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xllamacpp

from adapters.local.validation import Job

Chunk = Mapping[str, Any]

# llama.cpp holds a character back until its last byte: a generation may run on to complete it.
_SLACK_TOKENS = 64
_CONTEXT_STEP = 256
# Between two batches of a prompt a generation can be cancelled: 64 tokens take about 0.4 s on one
# core, and a prompt of 1,000 tokens takes no longer than with batches of 2,048.
_BATCH_TOKENS = 64


class Llama:
    """A loaded model with `slots` contexts of `context_tokens` each. The constructor blocks."""

    def __init__(self, path: Path, *, slots: int, context_tokens: int, threads: int) -> None:
        self._context_tokens = _round_up(context_tokens + _SLACK_TOKENS)
        settings = xllamacpp.CommonParams()
        settings.model.path = str(path)
        settings.n_ctx = self._context_tokens * slots
        settings.n_parallel = slots
        settings.n_batch = settings.n_ubatch = _BATCH_TOKENS
        settings.cpuparams.n_threads = threads
        settings.verbosity = -1
        # A prompt that is partly in a cache is computed in other batches, and its last digits
        # differ: the same seed would give another text.
        settings.cache_prompt = False
        settings.cache_ram_mib = 0
        # xllamacpp always opens a port on 127.0.0.1 as well; nobody is to use it.
        settings.api_keys = [secrets.token_hex(16)]
        self._server = xllamacpp.Server(settings)

    def stream(self, job: Job, receive: Callable[[Chunk], bool]) -> None:
        """Run `job` and call `receive` with each chunk; it returns True to stop. Blocks.

        Chunks without `logprobs` report progress of the prompt. Refusals are chunks with an
        `error`. An exception in `receive` would be swallowed by the engine.
        """
        self._server.handle_completions(self._payload(job), receive)

    def accepts(self, grammar: str, *, mark: str) -> bool:
        """Tell whether a grammar that starts with `mark` compiles. Blocks for one token.

        llama.cpp generates freely when llguidance cannot compile a grammar, and says so on
        stderr only. So one token is generated: it is the mark's, or the grammar is void.
        """
        texts: list[str] = []

        def receive(chunk: Chunk) -> bool:
            texts.extend(choice["text"] for choice in chunk.get("choices", ()))
            return False

        payload = {"prompt": [0], "max_tokens": 1, "temperature": 0.0, "stream": True}
        self._server.handle_completions({**payload, "grammar": grammar}, receive)
        return "".join(texts).startswith(mark)

    def _payload(self, job: Job) -> dict[str, Any]:
        payload: dict[str, Any] = {
            "prompt": list(job.prompt),
            "max_tokens": job.max_new_tokens + _SLACK_TOKENS,
            "stream": True,
            "return_progress": True,
            "logprobs": max(1, job.top_n_tokens),
            # TGI's order of processors; llama.cpp's other samplers stay out.
            "samplers": ["penalties", "temperature", "top_k", "top_p", "typ_p"],
            "repeat_last_n": self._context_tokens,
            "repeat_penalty": job.repetition_penalty,
            "frequency_penalty": job.frequency_penalty,
            "temperature": 0.0 if job.seed is None else job.temperature,
            "top_k": job.top_k,
            "top_p": job.top_p,
            "typical_p": job.typical_p,
            "seed": 0 if job.seed is None else _fold(job.seed),
        }
        if job.grammar is not None:
            payload["grammar"] = job.grammar.source()
        return payload


def _fold(seed: int) -> int:
    """Return 32 bits of a 64-bit seed; small seeds stay. 2**32 - 1 means "random" to llama.cpp."""
    return ((seed ^ seed >> 32) & 0xFFFFFFFF) % (2**32 - 1)


def _round_up(tokens: int) -> int:
    """Return the context size that llama.cpp would make of `tokens` anyway."""
    return -(-tokens // _CONTEXT_STEP) * _CONTEXT_STEP
