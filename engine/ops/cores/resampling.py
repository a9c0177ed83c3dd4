"""Resizing by interpolation over an array namespace, one axis after the other.

An axis is described by taps: for every output position, which input positions it reads and with
what weights. Coordinates are float32 on purpose: which of two neighbours is nearest depends on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from engine.ops.cores.windows import Array


@dataclass(frozen=True)
class Interpolation:
    """How to resize, in the words of ONNX's Resize."""

    mode: str = "nearest"
    coordinates: str = "half_pixel"
    nearest: str = "round_prefer_floor"
    cubic_a: float = -0.75
    exclude_outside: bool = False
    antialias: bool = False
    extrapolation_value: float = 0.0


@dataclass(frozen=True)
class AxisPlan:
    """One axis to resize: sizes, scale, and where a mode uses it the region of interest."""

    axis: int
    size: int
    output: int
    scale: float
    roi: tuple[float, float] = (0.0, 1.0)

    @property
    def is_trivial(self) -> bool:
        """Whether every output position is its own input position."""
        return self.size == self.output and self.scale == 1.0 and self.roi == (0.0, 1.0)


def resize(xp: Any, x: Array, plans: list[AxisPlan], how: Interpolation) -> Array:
    """Resize the planned axes of `x`; linear and cubic modes need floats."""
    outside = []
    for plan in plans:
        crops = how.coordinates == "tf_crop_and_resize"
        if plan.is_trivial and not crops:
            continue
        position = _coordinates(xp, plan, how.coordinates)
        if crops:
            outside.append((plan.axis, (position < 0) | (position > plan.size - 1)))
        if how.mode == "nearest":
            x = xp.take(x, _nearest(xp, position, plan, how.nearest), axis=plan.axis)
        else:
            x = _interpolate(xp, x, plan, position, how)
    for axis, mask in outside:
        shape = [1] * x.ndim
        shape[axis] = -1
        x = xp.where(mask.reshape(shape), xp.asarray(how.extrapolation_value, dtype=x.dtype), x)
    return x


def _coordinates(xp: Any, plan: AxisPlan, mode: str) -> Array:  # (output,) float32
    """Where each output position falls on the input axis."""
    y = xp.arange(plan.output, dtype=xp.float32)
    scale, size = xp.float32(plan.scale), plan.size
    if mode == "align_corners":
        return y * xp.float32(size - 1) / xp.float32(plan.output - 1) if plan.output > 1 else y * 0
    if mode == "asymmetric":
        return y / scale
    if mode == "tf_half_pixel_for_nn":
        return (y + xp.float32(0.5)) / scale
    if mode == "pytorch_half_pixel" and plan.output <= 1:
        return y * 0
    if mode == "tf_crop_and_resize":
        start, end = plan.roi
        if plan.output <= 1:
            return y * 0 + xp.float32(0.5 * (start + end) * (size - 1))
        step = xp.float32((end - start) * (size - 1)) / xp.float32(plan.output - 1)
        return xp.float32(start * (size - 1)) + y * step
    offset = 0.0
    if mode == "half_pixel_symmetric":
        # The scale may not divide the axis evenly; keep the centres of both axes together.
        offset = size / 2 * (1 - plan.output / (plan.scale * size))
    return xp.float32(offset) + (y + xp.float32(0.5)) / scale - xp.float32(0.5)


def _nearest(xp: Any, position: Array, plan: AxisPlan, rounding: str) -> Array:
    """The input index that each position reads."""
    if rounding == "simple":
        rounding = "ceil" if plan.scale < 1 else "floor"
    if rounding == "floor":
        index = xp.floor(position)
    elif rounding == "ceil":
        index = xp.ceil(position)
    elif rounding == "round_prefer_ceil":
        index = xp.floor(position + xp.float32(0.5))
    else:
        index = xp.ceil(position - xp.float32(0.5))
    return xp.clip(index.astype(xp.int64), 0, max(plan.size - 1, 0))


def reach(plan: AxisPlan, how: Interpolation) -> int:
    """Neighbours read on each side; a shrinking, antialiased axis widens the window."""
    if how.mode == "nearest":
        return 1
    shrink = min(plan.scale, 1.0) if how.antialias else 1.0
    if shrink <= 0:
        raise ValueError(f"a scale must be positive, got {plan.scale}")
    return math.ceil((2 if how.mode == "cubic" else 1) / shrink)


def _interpolate(xp: Any, x: Array, plan: AxisPlan, position: Array, how: Interpolation) -> Array:
    """Weighted sum of the neighbours along one axis."""
    shrink = min(plan.scale, 1.0) if how.antialias else 1.0
    side = reach(plan, how)
    left = xp.floor(position).astype(xp.int64)
    taps = xp.arange(1 - side, 1 + side, dtype=xp.int64)
    index = left[:, None] + taps  # (output, T)
    distance = (index - position[:, None].astype(xp.float64)) * shrink
    weights = (
        cubic_kernel(xp, distance, how.cubic_a) if how.mode == "cubic" else _linear(xp, distance)
    )
    if how.exclude_outside:
        weights = xp.where((index < 0) | (index >= plan.size), 0.0, weights)
    if how.antialias or how.exclude_outside:
        total = weights.sum(axis=1, keepdims=True)
        weights = weights / xp.where(total == 0, 1.0, total)
    index = xp.clip(index, 0, max(plan.size - 1, 0))
    weights = weights.astype(x.dtype)
    shape = [1] * x.ndim
    shape[plan.axis] = -1
    result = xp.take(x, index[:, 0], axis=plan.axis) * weights[:, 0].reshape(shape)
    for tap in range(1, len(taps)):
        result += xp.take(x, index[:, tap], axis=plan.axis) * weights[:, tap].reshape(shape)
    return result


def _linear(xp: Any, distance: Array) -> Array:
    return xp.maximum(1 - xp.abs(distance), 0.0)


def cubic_kernel(xp: Any, distance: Array, a: float) -> Array:
    """Keys' convolution kernel with coefficient `a`."""
    d = xp.abs(distance)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return xp.where(d <= 1, near, xp.where(d < 2, far, 0.0))
