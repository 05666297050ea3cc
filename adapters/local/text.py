"""Text generation: a llama.cpp model that answers text-generation-inference's requests."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from adapters.local import answer as wire_answer
from adapters.local import weights
from adapters.local.answer import Result, Timings
from adapters.local.decoding import Step
from adapters.local.engine import Engine, Loaded
from adapters.local.generation import Generation
from adapters.local.packaged import Needs
from adapters.local.problems import Problem
from adapters.local.registry import Operation, Question, Streamed, Whole
from adapters.local.validation import Job, Limits, check_stream, check_whole, plan
from adapters.local.vocabulary import Piece, Vocabulary
from adapters.local.warmup import Warmup
from adapters.local.wire import GenerateRequest, parse_inputs, parse_request

_LOAD_SECONDS = 1.0
_BODY_LIMIT_BYTES = 2_000_000  # TGI's `payload_limit`
_API_VERSION = "3.3.7"  # the release of text-generation-inference whose API this follows
_TOKENIZERS = Path(__file__).parent / "tokenizers"
_NEEDS = Needs(extra="local", modules=("xllamacpp",), files=())


def default_threads() -> int:
    """Return one less than the cores: llama.cpp's threads spin, and starve what shares them."""
    return max(1, (os.cpu_count() or 1) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextSettings:
    """How a text model is run.

    `ends` are the special tokens that end a generation. A stream that is silent for
    `silence_seconds`, as while a long prompt is read, gets a comment that keeps it alive.
    """

    model_id: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    weights_name: str = "smollm2-135m-instruct"
    tokenizer: Path = _TOKENIZERS / "SmolLM2-135M-Instruct" / "tokenizer.json"
    ends: tuple[str, ...] = ("<|im_end|>", "<|endoftext|>")
    slots: int = 2
    threads: int = field(default_factory=default_threads)
    load_delay_seconds: float = 0.0
    silence_seconds: float = 15.0
    limits: Limits = field(default_factory=Limits)


class TextModel:
    """One text model behind TGI's `/`, `/generate`, `/generate_stream` and `/tokenize`."""

    task = "text-generation"
    framework = "llama.cpp"
    operations = frozenset(Operation)
    body_limit_bytes = _BODY_LIMIT_BYTES

    def __init__(self, settings: TextSettings) -> None:
        self.id = settings.model_id
        self._settings = settings
        self._limits = settings.limits
        self._engine = Engine(
            self._open,
            slots=settings.slots,
            max_requests=settings.limits.max_concurrent_requests,
        )
        self.warmup = Warmup(
            self._engine.load,
            expected_seconds=_LOAD_SECONDS,
            delay_seconds=settings.load_delay_seconds,
        )

    async def answer(self, question: Question) -> Whole | Streamed:
        """Answer a generation or `/tokenize`. Raises Problem.

        A stream always begins well: what its request breaks is told in its only event.
        """
        arrived_at = time.perf_counter()
        if question.operation is Operation.TOKENIZE:
            return await self._tokenize(question)
        request = parse_request(question.body, content_type=question.content_type)
        request = _with_defaults(request, question.operation)
        if request.stream:
            headers = wire_answer.stream_headers(request)
            return Streamed(frames=await self._stream(request), headers=headers)
        return await self._whole(request, question.operation, arrived_at)

    def info(self) -> Mapping[str, Any]:
        return {
            "model_sha": weights.by_name(self._settings.weights_name).sha256,
            **asdict(self._limits),
            "validation_workers": 1,
            "max_client_batch_size": 1,
            "version": _API_VERSION,
        }

    def close(self) -> None:
        self._engine.close()

    def _open(self) -> Loaded:
        with _NEEDS.imports():
            from adapters.local.llama import Llama
        settings = self._settings
        llama = Llama(
            weights.find(settings.weights_name),
            slots=settings.slots,
            context_tokens=self._limits.max_total_tokens,
            threads=settings.threads,
        )
        return Loaded(llama, Vocabulary(settings.tokenizer, ends=settings.ends))

    async def _pieces(self, text: str) -> list[Piece]:
        # Off the loop, as in `_plan`: the longest allowed text takes a second.
        return await asyncio.to_thread(self._engine.loaded.vocabulary.pieces, text)

    async def _tokenize(self, question: Question) -> Whole:
        inputs = parse_inputs(question.body, content_type=question.content_type)
        pieces = wire_answer.render_pieces(await self._pieces(inputs))
        return Whole(body=msgspec.json.encode(pieces))

    async def _plan(self, request: GenerateRequest) -> Job:
        vocabulary = self._engine.loaded.vocabulary
        return await asyncio.to_thread(plan, request, limits=self._limits, vocabulary=vocabulary)

    async def _stream(self, request: GenerateRequest) -> TextStream:
        try:
            check_stream(request.parameters)
            source: Generation | Problem = self._engine.start(await self._plan(request))
        except Problem as problem:
            source = problem
        return TextStream(request, source, silence_seconds=self._settings.silence_seconds)

    async def _whole(
        self, request: GenerateRequest, operation: Operation, arrived_at: float
    ) -> Whole:
        check_whole(request.parameters, self._limits)
        job = await self._plan(request)
        others = (request.parameters.best_of or 1) - 1
        first, results = await self._run([job, *(job.reseeded() for _ in range(others))])
        timings = Timings(
            arrived_at=arrived_at,
            queued_at=first.queued_at,
            started_at=first.started_at,
            ended_at=time.perf_counter(),
        )
        prefill: list[Piece] = []
        if request.parameters.decoder_input_details:
            prefill = (await self._pieces(request.inputs))[-len(job.prompt) :]
        answer = wire_answer.render_generation(request, results, prefill=prefill)
        return Whole(
            body=msgspec.json.encode([answer] if operation is Operation.PREDICT else answer),
            headers=wire_answer.whole_headers(request, results[0], timings),
        )

    async def _run(self, jobs: Sequence[Job]) -> tuple[Generation, list[Result]]:
        """Run `jobs` side by side. Return the first one's generation and all results, best first.

        Raises Problem, or is cancelled; then none of them runs on.
        """
        generations: list[Generation] = []
        try:
            for job in jobs:
                generations.append(self._engine.start(job))
            results = await asyncio.gather(*map(_result, generations))
        finally:
            for generation in generations:
                generation.cancel()
        return generations[0], sorted(results, key=lambda r: r.mean_logprob, reverse=True)


class TextStream:
    """The frames of one generation, or of the problem that stands in its place."""

    def __init__(
        self, request: GenerateRequest, source: Generation | Problem, *, silence_seconds: float
    ) -> None:
        self.complete = False
        self._silence_seconds = silence_seconds
        self._request = request
        self._source = source

    def cancel(self) -> None:
        if isinstance(self._source, Generation):
            self._source.cancel()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            if isinstance(self._source, Problem):
                raise self._source
            async for frame in self._frames(self._source):
                yield frame
            self.complete = True
        except Problem as problem:
            yield wire_answer.frame(problem.render())

    async def _frames(self, generation: Generation) -> AsyncIterator[bytes]:
        steps: list[Step] = []
        job = generation.job
        async for step in generation.steps(silence_seconds=self._silence_seconds):
            if step is None:
                yield wire_answer.KEEP_ALIVE
                continue
            steps.append(step)
            yield wire_answer.render_event(
                self._request, steps, seed=job.seed, input_length=len(job.prompt)
            )


async def _result(generation: Generation) -> Result:
    steps = tuple([step async for step in generation.steps() if step is not None])
    return Result(steps, generation.job.seed, len(generation.job.prompt))


def _with_defaults(request: GenerateRequest, operation: Operation) -> GenerateRequest:
    """Return `request` with what its path decides: streaming, and the prompt in the answer."""
    streams = {Operation.PREDICT: request.stream, Operation.GENERATE_STREAM: True}
    parameters = request.parameters
    if parameters.return_full_text is None:
        with_prompt = operation is Operation.PREDICT
        parameters = replace(parameters, return_full_text=with_prompt)
    return replace(request, stream=streams.get(operation, False), parameters=parameters)
