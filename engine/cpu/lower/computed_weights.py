"""Weights of convolutions that are computed: packed by every run, as fixed ones are when compiling.

Hypernetworks, conditional and modulated convolutions, and correlations of one picture with another
have such weights.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.cpu.buffers import Buffer
from engine.cpu.kernels.fill import PIECE, Fill
from engine.cpu.kernels.panels import Panels
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.half import is_on
from engine.cpu.lower.rules import NoKernel
from engine.cpu.lower.strided import Axis, strided_copy
from engine.cpu.weight_store import MARGIN
from engine.dtypes import DType
from engine.ir.graph import Node
from engine.ir.types import ceildiv

FLOAT: Final = DType.FLOAT32


def stand_in(ctx: Lowering, name: str) -> np.ndarray:
    """Return zeros of the shape of computed weights, which take no memory; `NoKernel` where they
    have no native form.
    """
    if ctx.dtype(name) is not FLOAT or is_on(ctx):
        raise NoKernel("the weights are computed, and not to be multiplied as float32")
    shape = ctx.static_shape(name)
    if len(shape) not in (3, 4) or 0 in shape:
        raise NoKernel(f"weights of shape {list(shape)} have no kernel")
    return np.broadcast_to(np.float32(0), shape)


def packed_filters(ctx: Lowering, node: Node, name: str, groups: int, panels: Panels) -> Buffer:
    """Add the steps that pack weights (filters, channels per group, rows, columns) into panels.

    Each group's are a matrix with a column per filter; its rows go through the window, channels
    innermost.
    """
    filters, channels, *window = ctx.static_shape(name)
    rows, columns = (1, *window)[-2:]
    source, terms, each = ctx.plain(name, node), rows * columns * channels, filters // groups
    held = panels.whole * panels.width + panels.tail_vectors * panels.lanes
    total = groups * terms * held
    packed = ctx.temporary(f"{name} packed", total * FLOAT.itemsize + MARGIN)
    if held != each:
        _clear(ctx, node, packed, total)
    whole, rest = divmod(each, panels.width)
    last = panels.width if whole < panels.whole else panels.tail_vectors * panels.lanes
    pieces = [(whole, panels.width, panels.width, 0), (1, rest, last, whole * panels.width)]
    for count, wide, pitch, first in pieces:
        if not count or not wide:
            continue
        taken = channels * rows * columns
        axes = [
            Axis(groups, terms * held, each * taken),
            Axis(count, terms * panels.width, panels.width * taken),
            Axis(rows, columns * channels * pitch, columns),
            Axis(columns, channels * pitch, 1),
            Axis(channels, pitch, rows * columns),
            Axis(wide, 1, taken),
        ]
        at = {"first_to": terms * first, "first_from": first * taken}
        strided_copy(ctx, packed, source, axes, FLOAT, node, **at)
    return packed


def _clear(ctx: Lowering, node: Node, packed: Buffer, elements: int) -> None:
    zero = ctx.weights("zero|float32", lambda: np.zeros(1, np.float32))
    tasks = ceildiv(elements, PIECE)
    fill = Fill(FLOAT.itemsize)
    ctx.step(fill, (packed,), (zero,), tasks=tasks, numbers=(elements,), node=node)
