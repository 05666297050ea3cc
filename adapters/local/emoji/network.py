"""The learned half of emoji-flow: text embeddings to sprites, colours and backdrops.

Layouts follow numpy's habit: (height, width, channels), and rows of a batch first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from adapters.local.emoji.composition import FROM_LUMA, Array

SPRITE_SIDE = 96
LATENT_SIZE = 512

_TEXT_GAIN = 20  # what the embeddings were multiplied by in training: their numbers are small
_WAVES = 16
_LOW_BLOCKS, _HIGH_BLOCKS = 3, 2


@dataclass(frozen=True, slots=True)
class Setting:
    """The words of a prompt that are painted by program: None where it names none."""

    paint: Array | None
    flat: Array | None
    scene: Array | None


class Network:
    """The weights in `path`. Calls change nothing in it, so one instance serves many threads."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as file:
            names = [name for name in file.files if not name.endswith(".s")]
            self._weights = {name.removesuffix(".q"): _dequantised(file, name) for name in names}
        self.empty_text = self._weights["null"]
        self.scene_variants = self._weights["scenes"].shape[1]
        self._blocks = sum(name.endswith(".mod.bias") for name in self._weights)

    def denoised(self, latent: Array, time: float, texts: Array) -> Array:
        """Return the clean latents (N, 512) that the flow believes in at `time`, 0..1.

        `latent` is (512,), `texts` are N embeddings (N, 384) of length 1.
        """
        condition = self._condition(time, texts)
        width = len(self._weights["enter.bias"])
        x = np.broadcast_to(self._linear("enter", latent), (len(texts), width))
        for number in range(self._blocks):
            block = f"blocks.{number}"
            shift, gain = np.split(self._linear(f"{block}.mod", condition), 2, 1)
            inner = self._linear(f"{block}.a", _normalised(x) * (1 + gain) + shift)
            x = x + self._linear(f"{block}.b", _silu(inner))
        return self._linear("leave", _normalised(x))

    def sprite(self, latent: Array) -> Array:
        """Return the picture (96, 96, 4) of a clean latent (512,), premultiplied, 0..1."""
        planes = (latent @ self._weights["joint"]).reshape(4, -1) @ self._weights["planes"]
        planes = planes + self._weights["mean"]
        rgba = np.concatenate([FROM_LUMA @ planes[:3], planes[3:]]).T
        return self._refined(rgba.reshape(SPRITE_SIDE, SPRITE_SIDE, 4))

    def setting(self, text: Array, *, scene_variant: int) -> Setting:
        """Return colour and backdrop that an embedding (384,) speaks of."""
        logits = self._linear("words.2", _silu(self._linear("words.0", text * _TEXT_GAIN)))
        paints, flats = self._weights["paint"], self._weights["flat"]
        cut = 1 + len(paints)
        # Class 0 is "none" in both.
        colour, backdrop = int(logits[:cut].argmax()), int(logits[cut:].argmax())
        scene = backdrop - len(flats)
        return Setting(
            paint=paints[colour - 1] if colour else None,
            flat=flats[backdrop - 1] if 0 < backdrop <= len(flats) else None,
            scene=self._weights["scenes"][scene - 1, scene_variant] if scene > 0 else None,
        )

    def _condition(self, time: float, texts: Array) -> Array:
        angles = np.exp(np.linspace(0, np.log(200), _WAVES, dtype=np.float32)) * np.float32(time)
        wave = np.concatenate([np.sin(angles), np.cos(angles)])
        waves = np.broadcast_to(wave, (len(texts), len(wave)))
        inner = self._linear("cond.0", np.concatenate([texts * _TEXT_GAIN, waves], 1))
        return _silu(self._linear("cond.2", _silu(inner)))

    def _refined(self, sprite: Array) -> Array:
        """Return `sprite` without the flow's blur and speckle: a small two-level U-Net."""
        high = self._convolved("first", _unshuffled(sprite))
        low = self._linear("down", _unshuffled(high))
        for number in range(_LOW_BLOCKS):
            low = self._residual(f"low.{number}", low)
        high = high + _shuffled(self._linear("up", low))
        for number in range(_HIGH_BLOCKS):
            high = self._residual(f"high.{number}", high)
        rgba = (sprite + _shuffled(self._convolved("last", _silu(high)))).clip(0, 1)
        covered: Array = np.minimum(rgba, rgba[..., 3:])
        return covered

    def _residual(self, name: str, x: Array) -> Array:
        inner = self._convolved(f"{name}.a", _silu(x))
        return x + self._convolved(f"{name}.b", _silu(inner))

    def _linear(self, name: str, x: Array) -> Array:
        y: Array = x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]
        return y

    def _convolved(self, name: str, x: Array) -> Array:
        """Return a 3x3 convolution of `x`, (height, width, channels)."""
        height, width, _ = x.shape
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        shifted = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
        return self._linear(name, np.concatenate(shifted, 2))


def _dequantised(file: Any, name: str) -> Array:
    """Return an array of the file as float32: `NAME.q` are integers, `NAME.s` their scales."""
    values: Array = file[name].astype(np.float32)
    if name.endswith(".q"):
        values = values * file[name.removesuffix("q") + "s"].astype(np.float32)
    return values


def _silu(x: Array) -> Array:
    y: Array = x / (1 + np.exp(-np.clip(x, -30, 30)))
    return y


def _normalised(x: Array) -> Array:
    x = x - x.mean(-1, keepdims=True)
    normalised: Array = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(1e-5))
    return normalised


def _unshuffled(x: Array) -> Array:
    """Return (height, width, C) as (height/2, width/2, 4C), in torch's `pixel_unshuffle` order."""
    height, width, channels = x.shape
    blocks = x.reshape(height // 2, 2, width // 2, 2, channels).transpose(0, 2, 4, 1, 3)
    return blocks.reshape(height // 2, width // 2, 4 * channels)


def _shuffled(x: Array) -> Array:
    """Return (height, width, 4C) as (2 height, 2 width, C), in torch's `pixel_shuffle` order."""
    height, width, channels = x.shape
    blocks = x.reshape(height, width, channels // 4, 2, 2).transpose(0, 3, 1, 4, 2)
    return blocks.reshape(2 * height, 2 * width, channels // 4)
