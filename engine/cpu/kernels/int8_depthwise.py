"""Convolutions of pictures of bytes in which every channel has one filter of its own.

Bytes are widened to 32 bits, of which the lower 16 are multiplied: exact, and two instructions per
tap at the most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import llvmlite.ir as ir
import numpy as np

from engine.cpu.builder import F32, I8, I32, PTR, Builder, Value, vector
from engine.cpu.expressions import emit_expr
from engine.cpu.kernel import KernelBuilder
from engine.cpu.kernels.border import clear_border
from engine.cpu.kernels.depthwise import DepthwiseConv, DepthwiseEmitter, pack_depthwise
from engine.cpu.kernels.int8_products import add_pairs, load_weights
from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.expr_text import read_expr


@dataclass(frozen=True)
class IntegerDepthwise(DepthwiseConv):
    """y = epilogue(depthwise(x, weights) + begin, further operands).

    operands: y, x, weights as (vectors of channels, taps, lanes) int32 below 65536, begin (int32
    per channel), further operands that are no scalars, scalars. numbers: pictures, the byte around
    the result.

    Attributes:
        operands: What the epilogue takes after the sum: "column", "counts", "scalar", "number" or
            "picture". `extras` has an entry for each that is no scalar.
    """

    operands: tuple[str, ...] = ()

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        """Like depthwise convolutions of floats, with other sums."""
        _IntegerEmitter(self, module, name, target).emit()


def pack_integer_depthwise(weights: np.ndarray, lanes: int) -> np.ndarray:
    """Return (channels, 1, rows, columns) of int8 as the kernel wants them."""
    return pack_depthwise(weights.astype(np.int32) & 0xFFFF, lanes)


class _IntegerEmitter(DepthwiseEmitter):
    """Writes one kernel."""

    spec: IntegerDepthwise

    def clear_border(self, f: KernelBuilder, picture: Value, block: Value, row_blocks: int) -> None:
        """Write the zero point."""
        byte = f.b.trunc(f.number(1), I8) if self.spec.y.dtype.itemsize == 1 else None
        clear_border(f, picture, self.spec.y, block, row_blocks, byte)

    def shared(self, f: KernelBuilder) -> list[Value]:
        """The block of numbers, and numbers elsewhere."""
        return [f.operand(4 + len(self.spec.extras)), *(f.operand(4 + i) for i in self._numbers)]

    @property
    def shared_names(self) -> list[tuple[str, ir.Type]]:
        """Pointers."""
        return [("scalars", PTR), *((f"n{i}", PTR) for i in self._numbers)]

    @property
    def _numbers(self) -> list[int]:
        kinds = [kind for kind in self.spec.operands if kind != "scalar"]
        return [i for i, kind in enumerate(kinds) if kind == "number"]

    def begin(self, f: Builder, pointer: Value) -> Value:
        """Integers."""
        return load_weights(f, pointer)

    def load_input(self, f: Builder, pointer: Value) -> Value:
        """Bytes, widened."""
        raw, kind = f.load(pointer, DType.UINT8), vector(I32, f.lanes)
        return f.b.sext(raw, kind) if self.spec.x.dtype is DType.INT8 else f.b.zext(raw, kind)

    def load_weights(self, f: Builder, pointer: Value) -> Value:
        """Integers."""
        return load_weights(f, pointer)

    def multiply_add(self, f: Builder, total: Value, x: Value, w: Value) -> Value:
        """The upper halves of the weights are zero."""
        return add_pairs(f, total, x, w)

    def finish_one(self, f: Builder, value: Value, channel: Value, pixel: Sequence[Value]) -> None:
        """Apply the epilogue to one vector and store it."""
        spec, operands, scalars = self.spec, [value], 0
        extras = iter(enumerate(spec.extras))
        for kind in spec.operands:
            if kind == "scalar":
                at = f.at(f.parameter("scalars"), scalars)
                operands.append(f.splat(f.b.load(at, typ=F32, align=4)))
                scalars += 1
                continue
            i, layout = next(extras)
            if kind == "number":
                operands.append(f.splat(f.load(f.parameter(f"n{i}"), lanes=1)))
                continue
            dtype = DType.FLOAT32 if layout is None else layout.dtype
            at = f.at(f.parameter(f"e{i}"), channel, dtype)
            if layout is not None:
                moved = f.add(f.mul(pixel[0], layout.row), f.mul(pixel[1], layout.pitch))
                at = f.at(at, moved, dtype)
            operands.append(load_weights(f, at) if kind == "counts" else f.load(at, dtype))
        if spec.epilogue:
            value = emit_expr(f, read_expr(spec.epilogue), operands)
        out = f.at(f.parameter("y"), channel, spec.y.dtype)
        at = f.add(f.mul(pixel[0], spec.y.row), f.mul(pixel[1], spec.y.pitch))
        f.store(value, f.at(out, at, spec.y.dtype), spec.y.dtype)
