"""BitCast: the same bits read as another type."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.dtypes import DType
from engine.errors import InvalidModel
from engine.ir.types import TensorType
from engine.ops.common import Array
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import REQUIRED, operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState


def _width(dtype: DType) -> int:
    """Bits of an element as ONNX counts them: a bool is a byte."""
    return 8 if dtype is DType.BOOL else dtype.bits


@operator("BitCast", since=26)
class BitCast:
    """The bits of each element taken as an element of another type of the same width."""

    attributes = {"to": REQUIRED}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The type named."""
        x, to = ctx.type(0), BitCast.target(ctx)
        if DType.STRING in (x.dtype, to) or _width(x.dtype) != _width(to):
            ctx.fail(f"{x.dtype} and {to} are not of the same width")
        return [x.with_dtype(to)]

    @staticmethod
    def target(ctx: InferContext | ComputeContext) -> DType:
        """The type that `to` names."""
        number = ctx.attributes["to"]
        try:
            return DType.from_onnx(number)
        except InvalidModel as error:
            if isinstance(ctx, InferContext):
                ctx.fail(f"to={number}: {error}")
            raise

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """A view, but for types that take up less than the byte they lie in."""
        xp, to = ctx.xp, BitCast.target(ctx)
        source = DType.from_numpy(x.dtype)
        if _width(source) == 8 * source.itemsize and to is not DType.BOOL:
            return [xp.ascontiguousarray(x).view(to.numpy).reshape(x.shape)]
        bits = xp.ascontiguousarray(x).view(xp.uint8).reshape(x.shape)
        if to is DType.BOOL:
            return [bits != 0]
        return [_from_bits(xp, bits & ((1 << _width(to)) - 1), to)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items stay where they are."""
        return follow(ctx, lambda axis: axis)


def _from_bits(xp: Any, bits: Array, to: DType) -> Array:
    """Elements of a packed type from their bits, one in each byte."""
    if not to.is_integer:
        return bits.view(to.numpy)
    if not to.is_signed:
        return bits.astype(to.numpy)
    top = 1 << (to.bits - 1)
    return ((bits ^ top).astype(xp.int8) - top).astype(to.numpy)
