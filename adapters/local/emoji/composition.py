"""The half of emoji-flow that is not learned: a sprite in a colour, a backdrop, one on the other.

Pictures are float32 arrays (height, width, channels) in 0..1; sprites are square, with
premultiplied alpha as their fourth channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

# ITU-R BT.601: red, green and blue to luma and two chromas.
_TO_LUMA = np.array(
    [[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], dtype=np.float32
)
FROM_LUMA = np.linalg.inv(_TO_LUMA).astype(np.float32)

_LEAST_ALPHA = 1e-3
_SMALLEST_SPRITE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Pose:
    """How a sprite stands on its backdrop.

    `dx` and `dy`: -1..1 of the room left over. `scale`: the part of the short side that it
    fills. `angle` is in radians.
    """

    mirrored: bool
    dx: float
    dy: float
    scale: float
    angle: float


def resize(picture: Array, side: int) -> Array:
    """Return a square picture at `side`, by cubic resampling, antialiased when it shrinks."""
    size = len(picture)
    centres = (np.arange(side) + 0.5) * size / side - 0.5
    # Taps beyond the border repeat its pixels, so that no edge darkens.
    taps = np.arange(-2 * size, 3 * size)
    kernel = _cubic(np.abs(centres[:, None] - taps) / max(1.0, size / side))
    folded = np.clip(taps, 0, size - 1)[:, None] == np.arange(size)
    matrix = (kernel @ folded).astype(np.float32)
    matrix /= matrix.sum(1, keepdims=True)
    resized: Array = np.einsum("ab,bcd,ec->aed", matrix, picture, matrix, optimize=True)
    return resized


def painted(sprite: Array, paint: Array) -> Array:
    """Return `sprite` in the colour `paint` (3,), its shading kept and its greys left grey."""
    luma, chroma, alpha = _split(sprite)
    goal = _TO_LUMA @ paint
    size = np.hypot(chroma[..., :1], chroma[..., 1:])
    is_colourful = (size * alpha).sum() > 0.06 * alpha.sum()
    vivid = ((size - 0.04) / 0.08).clip(0, 1) if is_colourful else np.ones_like(size)
    mean = (luma * vivid * alpha).sum() / max((vivid * alpha).sum(), _LEAST_ALPHA)
    wanted = mean + 0.75 * (goal[0] - mean)
    if wanted < mean:
        moved = luma * wanted / mean
    else:
        moved = 1 - (1 - luma) * (1 - wanted) / max(1 - mean, _LEAST_ALPHA)
    luma = luma + vivid * (moved - luma)
    strength = np.minimum(1, 2.5 * np.minimum(luma, 1.1 - luma))
    chroma = chroma * (1 - vivid) + vivid * goal[1:] * strength
    return _join(luma, chroma, sprite[..., 3:])


def tinted(sprite: Array, angle: float) -> Array:
    """Return `sprite` with its hues turned by `angle` radians."""
    luma, chroma, _ = _split(sprite)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]], dtype=np.float32)
    return _join(luma, chroma @ turn, sprite[..., 3:])


def cover(picture: Array, width: int, height: int) -> Array:
    """Return a square picture enlarged to cover `height` x `width`, and cut to it."""
    full = max(width, height)
    top, left = (full - height) // 2, (full - width) // 2
    return resize(picture, full)[top : top + height, left : left + width].clip(0, 1)


def place(sprite: Array, backdrop: Array, pose: Pose) -> Array:
    """Return `backdrop` (height, width, 3) with `sprite` on it, sampled bilinearly."""
    height, width, _ = backdrop.shape
    short = min(width, height)
    side = max(_SMALLEST_SPRITE, round(short * pose.scale))
    big = np.pad(resize(sprite, side).clip(0, 1), ((1, 2), (1, 2), (0, 0)))
    x, y = _sources(width, height, room=short * (1 - pose.scale) / 2, pose=pose)
    middle = (len(big) - 3) / 2 + 0.5
    over = _bilinear(big, x + middle, y + middle)
    return backdrop * (1 - over[..., 3:]) + over[..., :3]


def _sources(width: int, height: int, *, room: float, pose: Pose) -> tuple[Array, Array]:
    """Return where each pixel comes from, x and y, counted from the sprite's middle."""
    gy, gx = np.mgrid[:height, :width].astype(np.float32)
    gy = gy - (height - 1) / 2 - pose.dy * room
    gx = gx - (width - 1) / 2 - pose.dx * room
    cos, sin = np.cos(pose.angle), np.sin(pose.angle)
    return (cos * gx + sin * gy) * (-1 if pose.mirrored else 1), cos * gy - sin * gx


def _bilinear(picture: Array, x: Array, y: Array) -> Array:
    x, y = x.clip(0, len(picture) - 2), y.clip(0, len(picture) - 2)
    x0, y0 = x.astype(int), y.astype(int)
    fx, fy = (x - x0)[..., None].astype(np.float32), (y - y0)[..., None].astype(np.float32)
    above = picture[y0, x0] * (1 - fx) + picture[y0, x0 + 1] * fx
    below = picture[y0 + 1, x0] * (1 - fx) + picture[y0 + 1, x0 + 1] * fx
    mixed: Array = above * (1 - fy) + below * fy
    return mixed


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Catmull-Rom's weights of taps at `distance`."""
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


def _split(sprite: Array) -> tuple[Array, Array, Array]:
    """Return luma, chroma and alpha, which is never nothing, without premultiplication."""
    alpha = np.maximum(sprite[..., 3:], np.float32(_LEAST_ALPHA))
    plain = (sprite[..., :3] / alpha).clip(0, 1) @ _TO_LUMA.T
    return plain[..., :1], plain[..., 1:], alpha


def _join(luma: Array, chroma: Array, alpha: Array) -> Array:
    rgb = (np.concatenate([luma, chroma], 2) @ FROM_LUMA.T).clip(0, 1)
    return np.concatenate([rgb * alpha, alpha], 2)
