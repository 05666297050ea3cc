"""One picture: rectified flow under guidance, then a composition that the seed draws."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from adapters.local.emoji.composition import Array, Pose, cover, painted, place, tinted
from adapters.local.emoji.network import LATENT_SIZE, Network, Setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Sketch:
    """What is to be painted, apart from the text.

    `guidance` 1 ignores the negative text; `seed` is 0..2**64 - 1 and draws noise, pose and tint.
    """

    seed: int
    width: int
    height: int
    steps: int
    guidance: float


@dataclass(frozen=True, slots=True)
class Chance:
    """What one seed draws, each time the same."""

    pose: Pose
    hue_angle: float
    pale: Array
    scene_variant: int
    noise: Array

    @classmethod
    def draw(cls, seed: int, *, scene_variants: int) -> Chance:
        """Return the draws of `seed`. Their order is part of the model: a change changes all."""
        generator = np.random.default_rng(seed)
        flip, dx, dy, size, turn, hue, *pastel = generator.uniform(-1, 1, 9).astype(np.float32)
        is_white = generator.random() < 0.5
        variant = int(generator.integers(scene_variants))
        return cls(
            pose=Pose(
                mirrored=bool(flip < 0),
                dx=float(dx),
                dy=float(dy),
                scale=0.86 + 0.08 * float(size),
                angle=0.16 * float(turn),
            ),
            hue_angle=0.15 * float(hue),
            pale=np.ones(3, np.float32) if is_white else _pale(pastel),
            scene_variant=variant,
            noise=generator.standard_normal(LATENT_SIZE).astype(np.float32),
        )


def paint(
    network: Network,
    text: Array,
    *,
    negative: Array | None,
    sketch: Sketch,
    checkpoint: Callable[[], None],
) -> NDArray[np.uint8]:
    """Return the picture (height, width, 3) of a text embedding (384,) of length 1.

    Without a `negative` embedding, guidance leads away from the learned empty text. `checkpoint`
    is called before each step; what it raises ends the painting.
    """
    chance = Chance.draw(sketch.seed, scene_variants=network.scene_variants)
    other = network.empty_text if negative is None else negative
    latent = _flow(network, np.stack([text, other]), chance.noise, sketch, checkpoint)
    setting = network.setting(text, scene_variant=chance.scene_variant)
    sprite = _coloured(network.sprite(latent), setting, chance)
    picture = place(sprite, _backdrop(setting, chance, sketch), chance.pose)
    return (picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _flow(
    network: Network,
    texts: Array,
    noise: Array,
    sketch: Sketch,
    checkpoint: Callable[[], None],
) -> Array:
    """Return the clean latent (512,) that Euler's method reaches from `noise`."""
    texts = (texts if sketch.guidance != 1 else texts[:1]).astype(np.float32)
    latent = noise
    for step in range(sketch.steps):
        checkpoint()
        clean = network.denoised(latent, step / sketch.steps, texts)
        aim = clean[-1] + np.float32(sketch.guidance) * (clean[0] - clean[-1])
        latent = latent + (aim - latent) / np.float32(sketch.steps - step)
    return latent


def _coloured(sprite: Array, setting: Setting, chance: Chance) -> Array:
    if setting.paint is None:
        return tinted(sprite, chance.hue_angle)
    return painted(sprite, setting.paint)


def _backdrop(setting: Setting, chance: Chance, sketch: Sketch) -> Array:
    if setting.scene is not None:
        return cover(setting.scene, sketch.width, sketch.height)
    colour = chance.pale if setting.flat is None else setting.flat
    return np.broadcast_to(colour, (sketch.height, sketch.width, 3))


def _pale(draws: list[np.float32]) -> Array:
    """Return a tint near white of three draws in -1..1."""
    return (0.91 + 0.09 * np.array(draws)).astype(np.float32)
