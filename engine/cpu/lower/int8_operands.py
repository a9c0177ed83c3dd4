"""What integer contractions have in common: zero points, and the operands of their epilogues."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.cpu.expressions import unsupported
from engine.cpu.lower.context import BYTES, Lowering
from engine.cpu.lower.epilogue import contraction_inputs
from engine.cpu.lower.rules import NoKernel
from engine.dtypes import DType
from engine.ir.expr_text import read_expr
from engine.ir.graph import Node
from engine.ops.fused import FUSED_DOMAIN, text_of_attribute


@dataclass(frozen=True, eq=False)
class Sides:
    """The two sides of an integer contraction with fixed weights.

    Attributes:
        x: Name of the left side.
        key: Names the weights.
        weights: Without their zero points, int8 or int16: each of `parts` fits int8.
        zero: The left side's zero point, a number, or None for a computed one.
        zero_name: Its name where it is computed.
        signed: Whether the left side is signed.
    """

    x: str
    key: str
    weights: np.ndarray
    zero: int | None
    zero_name: str
    signed: bool

    @property
    def parts(self) -> list[np.ndarray]:
        """The weights as a sum of int8 arrays: mostly one, two where zero points widen them.

        Three where one is 255: twice 127 is less.
        """
        if self.weights.dtype == np.int8:
            return [self.weights]
        rest = self.weights
        parts: list[np.ndarray] = []
        while rest.any() or not parts:
            part = rest.clip(-128, 127)
            parts.append(part.astype(np.int8))
            rest = rest - part
        return parts


def sides_of(ctx: Lowering, node: Node, axis: int) -> Sides:
    """Return the operands of ConvInteger or MatMulInteger; `axis` of the weights is the columns."""
    x, key, x_zero, w_zero, *_ = (*contraction_inputs(ctx, node), "", "")
    fixed = ctx.constant(key)
    if fixed is None or ctx.dtype(x) not in BYTES or ctx.dtype(key) not in BYTES:
        raise NoKernel("the weights are computed, or the values are no bytes")
    if fixed.size == 0:
        raise NoKernel("there is nothing to sum")
    zeros = ctx.constant(w_zero) if w_zero else np.zeros((), fixed.dtype)
    if zeros is None or (zeros.size > 1 and zeros.size != fixed.shape[axis]):
        raise NoKernel("the zero points of the weights are computed, or not one per column")
    weights = fixed
    if zeros.any() or fixed.dtype != np.int8:
        shape = [1] * fixed.ndim
        if zeros.size > 1:
            shape[axis] = -1
        weights = fixed.astype(np.int16) - zeros.astype(np.int16).reshape(shape)
    label = f"{key}-{w_zero}" if w_zero else key
    zero: int | None = 0
    if x_zero:
        value = ctx.constant(x_zero)
        if (value.size if value is not None else _size(ctx, x_zero)) != 1:
            raise NoKernel("each row has a zero point of its own")
        zero = None if value is None else int(value.reshape(()))
    signed = ctx.dtype(x) is DType.INT8
    return Sides(x, label, weights, zero, x_zero, signed)


def _size(ctx: Lowering, name: str) -> int:
    shape = ctx.static_shape(name)
    return int(np.prod(shape, dtype=np.int64))


@dataclass
class Operands:
    """The epilogue of an integer contraction.

    Attributes:
        text: The expression; "" for the sums.
        kinds: "scalar", "column", "counts" (int32 per column), "number" (one that is computed),
            "line" (one per column, computed), "row" (one per row, computed) or "value" per operand.
        columns: The fixed numbers per column, by name.
        scalars: The fixed numbers for all columns, in order.
        names: All operands that are no scalars: the names.
        dtype: The result's type.
    """

    text: str = ""
    kinds: list[str] = field(default_factory=list)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    scalars: list[float] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    dtype: DType = DType.INT32


def operands_of(ctx: Lowering, node: Node, axis: int) -> Operands:
    """Return a node's epilogue; `axis` is that of the columns in the result, from the end."""
    if node.domain != FUSED_DOMAIN:
        return Operands()
    own = contraction_inputs(ctx, node)
    text = text_of_attribute(ctx.attributes(node)["epilogue"])
    expr = read_expr(text)
    reason = unsupported(expr, ctx.target)
    if reason:
        raise NoKernel(reason)
    found = Operands(text, dtype=expr.dtype)
    for name in node.inputs[len(own) :]:
        _add(ctx, node, found, name, axis)
    return found


def _add(ctx: Lowering, node: Node, found: Operands, name: str, axis: int) -> None:
    value, shape, kind = ctx.constant(name), ctx.shape(name), ctx.dtype(name)
    result = ctx.shape(node.outputs[0])
    if value is not None and value.size == 1 and kind is DType.FLOAT32:
        found.kinds.append("scalar")
        found.scalars.append(float(value.reshape(())))
        return
    found.names.append(name)
    if value is not None:
        place = value.ndim + axis
        if kind is not DType.FLOAT32 and kind is not DType.INT32:
            raise NoKernel(f"fixed operands of the epilogue are {kind}")
        if place < 0 or value.shape[place] != value.size or value.size != result[axis]:
            raise NoKernel(f"the epilogue reads fixed numbers of shape {list(value.shape)}")
        found.kinds.append("column" if kind is DType.FLOAT32 else "counts")
        found.columns[name] = np.ascontiguousarray(value.reshape(-1))
    elif all(d == 1 for d in shape) and kind is DType.FLOAT32:
        found.kinds.append("number")
    elif len(shape) == 1 and axis == -1 and shape == result[-1:] and kind is DType.FLOAT32:
        found.kinds.append("line")
    elif shape == result:
        found.kinds.append("value")
    elif axis == -1 and shape == (*result[:-1], 1) and kind is DType.FLOAT32:
        found.kinds.append("row")
    else:
        raise NoKernel("the epilogue reads a computed value of another shape")
