"""Reading an image at arbitrary points over an array namespace."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from engine.ops.cores.resampling import cubic_kernel
from engine.ops.cores.windows import Array


@dataclass(frozen=True)
class Sampling:
    """How points between and outside of the pixels are read, in the words of ONNX's GridSample."""

    mode: str  # "nearest", "linear" or "cubic"
    padding: str  # "zeros", "border" or "reflection"
    align_corners: bool

    def edges(self, size: int) -> tuple[float, float]:
        """Where an axis begins and ends."""
        return (0.0, size - 1.0) if self.align_corners else (-0.5, size - 0.5)


def sample(xp: Any, x: Array, grid: Array, how: Sampling) -> Array:  # (N, C, *O)
    """Read `x` (N, C, *S) at points `grid` (N, *O, rank) from -1 to 1, last axis first."""
    sizes = x.shape[2:]
    rank = len(sizes)
    points = [
        _place(xp, grid[..., rank - 1 - axis].reshape(x.shape[0], -1), size, how)
        for axis, size in enumerate(sizes)
    ]
    pixels = x.reshape(*x.shape[:2], -1)  # (N, C, P)
    per_axis = [_neighbours(xp, p, how.mode) for p in points]
    total = xp.zeros((*x.shape[:2], points[0].shape[1]), dtype=x.dtype)
    for choice in itertools.product(*per_axis):
        index, weight = xp.zeros_like(points[0], dtype=xp.int64), xp.ones_like(points[0])
        for axis, (place, share) in enumerate(choice):
            inside, held = _hold(xp, place, sizes[axis], how)
            index = index * sizes[axis] + held
            weight = weight * share * inside
        read = xp.take_along_axis(pixels, index[:, None, :], axis=2)
        # A point outside reads zero, whatever pixel its index was held at.
        total += xp.where(weight[:, None, :] == 0, 0, read * weight[:, None, :]).astype(x.dtype)
    return total.reshape(*x.shape[:2], *grid.shape[1:-1])


def _place(xp: Any, coordinate: Array, size: int, how: Sampling) -> Array:
    """From -1..1 to pixels, moved inside as the padding says."""
    low, high = how.edges(size)
    place = (coordinate + 1) / 2 * (high - low) + low
    if how.mode == "nearest":
        place = xp.rint(place)
    if how.padding == "border" and how.mode != "cubic":
        return xp.clip(place, 0, size - 1)
    return _reflect(xp, place, low, high) if how.padding == "reflection" else place


def _reflect(xp: Any, place: Array, low: float, high: float) -> Array:
    """Fold a line of points back and forth between two mirrors."""
    span = high - low
    if span <= 0:
        return xp.zeros_like(place)
    offset = xp.abs(place - low) % (2 * span)
    return xp.where(offset > span, 2 * span - offset, offset) + low


def _neighbours(xp: Any, place: Array, mode: str) -> list[tuple[Array, Array]]:
    """The pixels that a point reads along one axis, and their shares."""
    if mode == "nearest":
        return [(place, xp.ones_like(place))]
    left = xp.floor(place)
    fraction = place - left
    if mode == "linear":
        return [(left, 1 - fraction), (left + 1, fraction)]
    return [(left + k, cubic_kernel(xp, fraction - k, -0.75)) for k in range(-1, 3)]


def _hold(xp: Any, place: Array, size: int, how: Sampling) -> tuple[Array, Array]:
    """Whether a pixel counts, and its index held inside the image."""
    if how.padding == "reflection":
        place = xp.trunc(_reflect(xp, place, *how.edges(size)))
    inside = (place >= 0) & (place <= size - 1)
    held = xp.clip(xp.nan_to_num(place), 0, max(size - 1, 0)).astype(xp.int64)
    return (inside if how.padding == "zeros" else xp.ones_like(inside)), held
