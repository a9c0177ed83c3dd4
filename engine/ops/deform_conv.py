"""Deformable convolution: every tap of the filter reads at a place that the input itself moves."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from engine.ir.types import Dim, Shape, TensorType, element_count
from engine.ops.common import Array, check_size, int_value, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.conv import conv_shape, conv_window, with_bias
from engine.ops.cores.windows import Window
from engine.ops.registry import operator
from engine.ops.row_rules import side_inputs_problem
from engine.ops.rows import RowContext, RowState, rows_on

DATA = (0, 2, 4)  # inputs that carry the items: image, offsets, mask


@operator("DeformConv", since=(19, 22))
class DeformConv:
    """Convolution whose taps are moved by offsets and weighted by a mask, per output position.

    Zhu et al., "Deformable ConvNets v2" (2018), section 3, for any number of spatial axes. Between
    pixels it reads linearly; what lies outside of the image is zero.
    """

    attributes = {
        "dilations": (),
        "group": 1,
        "kernel_shape": (),
        "offset_group": 1,
        "pads": (),
        "strides": (),
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like a convolution; the offsets must have a number per axis, tap and position."""
        shape = conv_shape(ctx, ctx.shape(0), ctx.shape(1))
        rank = None if shape is None else len(shape) - 2
        w = ctx.shape(1)
        taps = element_count(w[2:]) if w else None
        _check_moves(ctx, 2, shape, None if taps is None or rank is None else taps * rank)
        if ctx.has(4):
            _check_moves(ctx, 4, shape, taps)
        return [TensorType(ctx.dtype(0), shape)]

    @staticmethod
    def compute(
        ctx: ComputeContext,
        x: Array,
        w: Array,
        offset: Array,
        bias: Array | None = None,
        mask: Array | None = None,
    ) -> Sequence[Array]:
        """Image by image; narrow floats compute in float32 and round once."""
        xp, groups = ctx.xp, int(ctx.attributes["offset_group"])
        window = conv_window(ctx, x, w)
        if x.shape[1] % groups:
            raise ValueError(f"{x.shape[1]} channels do not divide into {groups} offset groups")
        outputs = window.output_sizes(x.shape[2:])
        taps, rank = math.prod(window.kernel), len(outputs)
        moves = (x.shape[0], groups, taps, rank, *outputs)
        _check_shape("offset", offset, (x.shape[0], groups * taps * rank, *outputs))
        if mask is not None:
            _check_shape("mask", mask, (x.shape[0], groups * taps, *outputs))
        pixels = widen(xp, x)
        check_size(ctx, (x.shape[1], taps, *outputs), pixels.dtype)
        check_size(ctx, (x.shape[0], w.shape[0], *outputs), pixels.dtype)
        y = xp.zeros((x.shape[0], w.shape[0], *outputs), dtype=pixels.dtype)
        if not y.size:
            return [narrow(y, x.dtype)]
        filters = widen(xp, w).reshape(ctx.attributes["group"], -1, w.shape[1] * taps)
        for k in range(x.shape[0]):
            shift = widen(xp, offset[k]).reshape(moves[1:])
            shares = None if mask is None else widen(xp, mask[k]).reshape(groups, 1, taps, -1)
            columns = _columns(xp, pixels[k], window, outputs, shift, shares)
            grouped = columns.reshape(ctx.attributes["group"], w.shape[1] * taps, -1)
            y[k] = xp.matmul(filters, grouped).reshape(y.shape[1:])
        return [narrow(with_bias(y, None if bias is None else widen(xp, bias)), x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Image, offsets and mask carry the items on axis 0."""
        problem = side_inputs_problem(ctx, DATA)
        first = ctx.rows[0]
        if problem or first is None or first != rows_on(0, first.block):
            return ctx.mixed(problem or "its image does not carry the items on axis 0")
        states = [ctx.rows[i] for i in DATA if i < len(ctx.rows)]
        if any(state is not None and state != first for state in states):
            return ctx.mixed("its offsets or its mask carry the items differently")
        return [first]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add, and for each read two per corner and axis."""
        out, x, w = conv_shape(ctx, ctx.shape(0), ctx.shape(1)), ctx.shape(0), ctx.shape(1)
        if out is None or x is None or w is None:
            return 0
        rank = len(out) - 2
        reads = element_count(out[2:]) * out[0] * x[1] * element_count(w[2:])
        return 2 * element_count(out) * element_count(w[1:]) + reads * (2 * rank << rank)


def _check_shape(name: str, given: Array, expected: tuple[int, ...]) -> None:
    if given.shape != expected:
        raise ValueError(f"{name} of shape {given.shape}, expected {expected}")


def _check_moves(ctx: InferContext, i: int, out: Shape | None, per_group: Dim | None) -> None:
    """Hold the shape of offsets or mask to the output's, as far as both are numbers."""
    given = ctx.shape(i)
    if given is None or out is None:
        return
    groups = int(ctx.attributes["offset_group"])
    channels = None if per_group is None else int_value(per_group * groups)
    expected = (out[0], channels, *out[2:])
    pairs = zip(given, expected, strict=False)
    wrong = [a for a, b in pairs if isinstance(a, int) and isinstance(b, int) and a != b]
    if groups < 1 or len(given) != len(expected) or wrong:
        ctx.fail(f"input {i} of shape {list(given)} does not fit an output of {list(out)}")


def _columns(
    xp: Any,
    pixels: Array,
    window: Window,
    outputs: Sequence[int],
    shift: Array,
    shares: Array | None,
) -> Array:  # (C, taps, P)
    """What every tap reads at every output position of one image (C, *S)."""
    channels, sizes = pixels.shape[0], pixels.shape[1:]
    groups, taps, rank = shift.shape[:3]
    places = []
    for axis, size in enumerate(sizes):
        view = [1] * rank
        view[axis] = -1
        origin = xp.arange(outputs[axis]) * window.strides[axis] - window.begins[axis]
        tap = _tap_offsets(xp, window, axis)
        moved = shift[:, :, axis] + origin.reshape(view) + tap.reshape(-1, *(1,) * rank)
        # Far away is as outside as infinitely far, and fits an integer.
        places.append(xp.clip(xp.nan_to_num(moved, nan=-2.0), -2, size + 1).reshape(groups, -1))
    flat = pixels.reshape(groups, channels // groups, -1)
    total = xp.zeros((groups, channels // groups, places[0].shape[1]), dtype=pixels.dtype)
    if not flat.size:
        return total.reshape(channels, taps, -1)
    lows = [xp.floor(place) for place in places]
    for corner in itertools.product((0, 1), repeat=rank):
        index, weight = xp.zeros(places[0].shape, dtype=xp.int64), xp.ones_like(places[0])
        for place, low, size, up in zip(places, lows, sizes, corner, strict=True):
            at, above = low + up, place - low
            inside = (at >= 0) & (at < size)
            weight = weight * xp.where(inside, above if up else 1 - above, 0)
            index = index * size + xp.clip(at, 0, size - 1).astype(xp.int64)
        total += xp.take_along_axis(flat, index[:, None], axis=2) * weight[:, None]
    if shares is not None:
        total = total.reshape(groups, channels // groups, taps, -1) * shares
    return total.reshape(channels, taps, -1)


def _tap_offsets(xp: Any, window: Window, axis: int) -> Array:  # (taps,)
    """Where each tap of the filter lies along one axis."""
    view = [1] * len(window.kernel)
    view[axis] = -1
    line = xp.arange(window.kernel[axis]) * window.dilations[axis]
    return xp.broadcast_to(line.reshape(view), window.kernel).reshape(-1)
