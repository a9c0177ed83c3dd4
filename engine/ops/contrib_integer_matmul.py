"""Products of small integers in the domain com.microsoft, with floats as results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType
from engine.ops.common import Array
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_common import MICROSOFT, check_fits
from engine.ops.integer_products import integer_matmul, to_int32
from engine.ops.linalg import matmul_flops, matmul_rows, matmul_shape
from engine.ops.quantization import dynamic_quantize
from engine.ops.recurrent import LSTM, infer_recurrent, recurrent_flops, recurrent_rows
from engine.ops.registry import operator
from engine.ops.rows import RowContext, RowState


def _product(ctx: InferContext, kind: DType) -> Sequence[TensorType]:
    return [TensorType(kind, matmul_shape(ctx, ctx.shape(0), ctx.shape(1)))]


@operator("MatMulInteger16", since=1, domain=MICROSOFT)
class MatMulInteger16:
    """Product of 16-bit matrices, summed in int32."""

    rows, flops = staticmethod(matmul_rows), staticmethod(matmul_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Numpy's rules."""
        return _product(ctx, DType.INT32)

    @staticmethod
    def compute(ctx: ComputeContext, a: Array, b: Array) -> Sequence[Array]:
        """Exact; what does not fit wraps around."""
        return [to_int32(ctx.xp, integer_matmul(ctx.xp, a, b, None, None))]


@operator("MatMulIntegerToFloat", since=1, domain=MICROSOFT)
class MatMulIntegerToFloat:
    """Product of 8-bit matrices times both scales, and a bias."""

    flops = staticmethod(matmul_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Numpy's rules; the scales' type."""
        for i in (2, 4):
            if ctx.has(i) and ctx.shape(i) not in (None, (), (1,)):
                ctx.unsupported("scales and zero points per row of A are not supported")
        return _product(ctx, ctx.dtype(2))

    @staticmethod
    def compute(
        ctx: ComputeContext,
        a: Array,
        b: Array,
        a_scale: Array,
        b_scale: Array,
        a_zero: Array | None = None,
        b_zero: Array | None = None,
        bias: Array | None = None,
    ) -> Sequence[Array]:
        """The sum is exact."""
        a_zero = None if a_zero is None else a_zero.reshape(())
        value = integer_matmul(ctx.xp, a, b, a_zero, b_zero).astype(a_scale.dtype)
        check_fits(value.shape, b_scale, bias)
        value = value * (a_scale.reshape(()) * b_scale)
        return [value if bias is None else value + bias]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Like MatMul; scale and zero point are the same for all rows."""
        return matmul_rows(ctx)


@operator("DynamicQuantizeMatMul", since=1, domain=MICROSOFT)
class DynamicQuantizeMatMul:
    """Quantize A by its own range to uint8, multiply by an 8-bit B, scale back, add a bias."""

    flops = staticmethod(matmul_flops)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Numpy's rules; the type of A."""
        ctx.type(2)  # without a scale there is no result
        return _product(ctx, ctx.dtype(0))

    @staticmethod
    def compute(
        ctx: ComputeContext,
        a: Array,
        b: Array,
        b_scale: Array,
        b_zero: Array | None = None,
        bias: Array | None = None,
    ) -> Sequence[Array]:
        """The sum is exact."""
        quantized, scale, zero = dynamic_quantize(ctx.xp, a)
        value = integer_matmul(ctx.xp, quantized, b, zero, b_zero).astype(a.dtype)
        check_fits(value.shape, b_scale, bias)
        value = value * (scale * b_scale)
        return [value if bias is None else value + bias]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """The range is taken over all items."""
        return ctx.mixed("its scale comes from the values of all items")


def _recurrent(ctx: InferContext) -> InferContext:
    """The context of a plain LSTM: weights transposed, without their parameters."""
    kinds = list(ctx.types[:8])
    for i in (1, 2):
        kind = ctx.type(i)
        if kind.shape is not None and len(kind.shape) != 3:
            ctx.fail(f"expected weights of rank 3, got {list(kind.shape)}")
        shape = kind.shape and (kind.shape[0], kind.shape[2], kind.shape[1])
        kinds[i] = TensorType(ctx.dtype(0), shape)
    return replace(ctx, types=kinds, attributes={**ctx.attributes, "layout": 0})


@operator("DynamicQuantizeLSTM", since=1, domain=MICROSOFT)
class DynamicQuantizeLSTM:
    """LSTM with 8-bit weights, one scale per direction or per gate and unit.

    ONNX Runtime quantizes the input and every hidden state on the way, by ranges taken over the
    batch. Here only the weights are rounded, as the file has them: closer to the net that was
    quantized, and an answer does not depend on who else is in the batch.
    """

    attributes = {
        name: value
        for name, value in LSTM.attributes.items()
        if name not in ("layout", "output_sequence")
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like LSTM."""
        return infer_recurrent(_recurrent(ctx))

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, *inputs: Array | None) -> Sequence[Array]:
        """In float32."""
        known = {**ctx.attributes, "layout": 0}
        w, r, *rest = inputs[:7]
        parameters = inputs[7:11]
        wide = [_real_weights(ctx, each, *parameters[k : k + 2]) for each, k in ((w, 0), (r, 2))]
        return LSTM.compute(replace(ctx, attributes=known), x, *wide, *rest)

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Like LSTM."""
        return recurrent_rows(replace(ctx, attributes={**ctx.attributes, "layout": 0}))

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per weight, item and step."""
        return recurrent_flops(_recurrent(ctx))


def _real_weights(
    ctx: ComputeContext, w: Array | None, scale: Array | None, zero: Array | None
) -> Array:  # (D, I, G) -> (D, G, I)
    if w is None or scale is None or zero is None:
        raise ValueError("weights, scales and zero points are all required")
    shape = (w.shape[0], 1, -1)
    real = w.astype(ctx.xp.float32) - zero.astype(ctx.xp.float32).reshape(shape)
    return ctx.xp.ascontiguousarray((real * scale.reshape(shape)).swapaxes(1, 2))
