"""Which steps take a batch one picture at a time, from the first step to the last of them.

Early in a convolutional net activations are large and weights small: a picture that goes through
all of these steps by itself stays in cache, and a thread needs no other one. Later weights
dominate, and every step takes the whole batch so that they are read once.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.cpu.buffers import Buffer, Place, PlainLayout, Program, Step
from engine.cpu.image_layout import ImageLayout
from engine.ir.types import SymDim, substitute, symbol

WEIGHTS_OVER_ACTIVATIONS = 4  # from here on a step's weights are worth sharing among the pictures
# Weights of this size are read again at no cost that counts, whatever they are multiplied with: the
# products of a squeeze-and-excitation, whose pictures are single pixels, must not end the cut.
FEW_WEIGHT_BYTES = 128 << 10


def batch_symbol(program: Program) -> str | None:
    """Return the symbol that counts the pictures, or None when there are none or many symbols."""
    symbols = {
        str(dim)
        for buffer in program.inputs
        for dim in buffer.plain.shape[:1]
        if len(buffer.plain.shape) == 4 and isinstance(dim, SymDim) and dim.is_symbol
    }
    return symbols.pop() if len(symbols) == 1 else None


def choose_cut(program: Program, batch: str, weight_bytes: Sequence[int]) -> int:
    """Return how many steps, from the first on, take one picture at a time."""
    for i, step in enumerate(program.steps):
        if not _is_itemwise(step, batch):
            return i
        weights = sum(weight_bytes[b.index] for b in step.reads if b.place is Place.WEIGHTS)
        worth = max(WEIGHTS_OVER_ACTIVATIONS * _activation_bytes(step, batch), FEW_WEIGHT_BYTES)
        if weights > worth:
            return i
    return len(program.steps)


def _is_itemwise(step: Step, batch: str) -> bool:
    """Whether the step keeps pictures apart: it works on pictures, and whatever else it touches
    has a row for each of them. Kernels on pictures never look from one into another.
    """
    operands = [b for b in (*step.writes, *step.reads) if b.place is not Place.WEIGHTS]
    pictures = any(isinstance(b.layout, ImageLayout) for b in operands)
    return pictures and all(_has_row_per_item(b, batch) for b in operands)


def _has_row_per_item(buffer: Buffer, batch: str) -> bool:
    if buffer.root[0].place is Place.WEIGHTS or buffer.index < 0:  # a fault has no rows
        return False
    if isinstance(buffer.layout, PlainLayout):
        shape = buffer.layout.shape
        if not shape or str(shape[0]) != batch:
            return False
    size = buffer.root[0].size_bytes
    return size == symbol(batch) * substitute(size, {batch: 1})


def _activation_bytes(step: Step, batch: str) -> int:
    total = 0
    for buffer in (*step.writes, *step.reads):
        if buffer.place is not Place.WEIGHTS:
            one = substitute(buffer.root[0].size_bytes, {batch: 1})
            total += one if isinstance(one, int) else 0
    return total
