"""Text to image: emoji-flow behind the text-to-image pipeline, one PNG for each request."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from adapters.local.embedding import (
    MINILM_MODULES,
    MINILM_TOKENIZER,
    MINILM_WEIGHTS,
    cut,
    open_minilm,
)
from adapters.local.packaged import Needs, PackagedFile
from adapters.local.pipeline import Reader, choice, headers, integer, number, parse_payload, string
from adapters.local.registry import Question, Whole
from adapters.local.resident import Resident, ResidentSettings

if TYPE_CHECKING:
    from adapters.local.emoji.network import Network
    from adapters.local.minilm import MiniLm

_LOAD_SECONDS = 1.0
_MOST_CHARACTERS = 4000
_LEAST_SIDE, _MOST_SIDE, _SIDE_STEP = 64, 1024, 8
_MOST_STEPS, _MOST_GUIDANCE = 100, 10

_FLOW = PackagedFile(
    package="adapters.local.emoji",
    path="emoji-flow.npz",
    size_bytes=10_008_423,
    sha256="4607deb4b072780cfae42d4f681c6796cf4d08fa18951cac4b3b030d0857c825",
)
_NEEDS = Needs(
    extra="local", modules=MINILM_MODULES, files=(_FLOW, MINILM_WEIGHTS, MINILM_TOKENIZER)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSettings:
    """How the image model is run."""

    resident: ResidentSettings = field(default_factory=ResidentSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Painting:
    """The parameters of one picture. Without a seed, a fresh one is drawn for each."""

    width: int = 256
    height: int = 256
    num_inference_steps: int = 25
    guidance_scale: float = 3.0
    negative_prompt: str | None = None
    seed: int = field(default_factory=lambda: secrets.randbits(64))
    scheduler: str = "FlowMatchEulerDiscreteScheduler"


@dataclass(frozen=True, slots=True)
class Studio:
    """What painting takes: a text encoder and the network that follows it."""

    minilm: MiniLm
    network: Network

    def paint(self, prompt: str, painting: Painting, checkpoint: Callable[[], None]) -> bytes:
        """Return a PNG. Blocks; what `checkpoint` raises between two steps ends it."""
        from adapters.local.emoji.painter import Sketch, paint
        from adapters.local.png import render_png

        negative = painting.negative_prompt
        picture = paint(
            self.network,
            self._embedded(prompt),
            negative=None if negative is None else self._embedded(negative),
            sketch=Sketch(
                seed=painting.seed,
                width=painting.width,
                height=painting.height,
                steps=painting.num_inference_steps,
                guidance=painting.guidance_scale,
            ),
            checkpoint=checkpoint,
        )
        checkpoint()
        return render_png(picture)

    def _embedded(self, text: str) -> Any:
        return self.minilm.vector(cut(self.minilm.tokens(text)))


class ImageModel(Resident["Studio"]):
    """Emoji-flow: one emoji-like subject on a plain or painted backdrop."""

    id = "dragoman/emoji-flow"
    task = "text-to-image"
    framework = "numpy"
    body_limit_bytes = 100_000

    def __init__(self, settings: ImageSettings | None = None) -> None:
        self._settings = settings or ImageSettings()
        super().__init__(
            needs=_NEEDS, expected_seconds=_LOAD_SECONDS, settings=self._settings.resident
        )

    async def answer(self, question: Question) -> Whole:
        """Answer with a PNG, whatever `Accept` says. Raises Problem."""
        started_at = time.perf_counter()
        payload = parse_payload(question.body, _READERS)
        prompt = _PROMPT(payload.inputs, "inputs")
        painting = Painting(**payload.parameters)
        png = await self.run(lambda studio, checkpoint: studio.paint(prompt, painting, checkpoint))
        return Whole(
            body=png,
            headers=headers(started_at, x_compute_characters=len(prompt)),
            media_type="image/png",
        )

    def info(self) -> Mapping[str, Any]:
        return {
            "model_sha": _FLOW.sha256,
            "max_concurrent_requests": self._settings.resident.max_requests,
            "max_input_characters": _MOST_CHARACTERS,
            "min_side": _LEAST_SIDE,
            "max_side": _MOST_SIDE,
            "side_step": _SIDE_STEP,
            "max_num_inference_steps": _MOST_STEPS,
        }

    def load(self) -> Studio:
        """Return the engine, ready to be used. Raises PackageMissing. Blocks."""
        minilm = open_minilm(_NEEDS, threads=self._settings.resident.threads)
        with _NEEDS.imports():
            from adapters.local.emoji.network import Network
        return Studio(minilm, Network(_NEEDS.find(_FLOW)))


_PROMPT = string(longest=_MOST_CHARACTERS)
_SIDE = integer(_LEAST_SIDE, _MOST_SIDE, step=_SIDE_STEP)
_READERS: Mapping[str, Reader] = {
    "width": _SIDE,
    "height": _SIDE,
    "num_inference_steps": integer(1, _MOST_STEPS),
    "guidance_scale": number(1, _MOST_GUIDANCE),
    "negative_prompt": string(longest=_MOST_CHARACTERS),
    "seed": integer(0, 2**64 - 1),
    "scheduler": choice("FlowMatchEulerDiscreteScheduler"),
}
