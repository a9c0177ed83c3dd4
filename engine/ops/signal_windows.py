"""Weights for signals, made from numbers: Hann, Hamming and Blackman windows, the mel matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import log10, pi
from typing import Any

from engine.dtypes import FLOATS, DType
from engine.ir.types import Dim, TensorType, floordiv
from engine.ops.checks import INDICES, check_dtype
from engine.ops.common import Array, check_size, int_value, ints
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import operator
from engine.ops.rows import SIZES, RowContext, RowState

Weights = Callable[[Any, Array], Array]  # cosines of the angles -> weights


def _sizes_only(ctx: RowContext) -> Sequence[RowState]:
    """Weights may depend on how many items there are, never on what is in them."""
    if any(state is not None and state.is_rows for state in ctx.rows):
        return ctx.mixed("its size comes from the items")
    return ctx.all_outputs(SIZES)


def _known_size(ctx: InferContext, i: int, what: str) -> Dim | None:
    """The number that input `i` holds, where it is known; it must not be negative."""
    known = ctx.value(i)
    if not known:
        return None
    if (number := int_value(known[0])) is not None and number < 0:
        ctx.fail(f"{what} is {number}; it must not be negative")
    return known[0]


def _window(name: str, formula: Weights, meaning: str) -> None:
    """Register a window that is a sum of cosines."""

    @operator(name, since=17)
    class Window:
        attributes = {"output_datatype": DType.FLOAT32.onnx, "periodic": 1}
        rows = staticmethod(_sizes_only)

        @staticmethod
        def infer(ctx: InferContext) -> Sequence[TensorType]:
            """As many weights as the input says."""
            check_dtype(ctx, 0, INDICES)
            size = _known_size(ctx, 0, "a window's size")
            dtype = DType.from_onnx(ctx.attributes["output_datatype"])
            return [TensorType(dtype, (ctx.fresh_dim("size") if size is None else size,))]

        @staticmethod
        def compute(ctx: ComputeContext, size: Array) -> Sequence[Array]:
            """In float64, rounded once; a symmetric window of 1 is the weight 1."""
            xp, count = ctx.xp, ints(size)[0]
            if count < 0:
                raise ValueError(f"a window's size is {count}; it must not be negative")
            check_size(ctx, (count,), xp.float64)
            kind = DType.from_onnx(ctx.attributes["output_datatype"]).numpy
            period = count if ctx.attributes["periodic"] else count - 1
            if period == 0:
                return [xp.ones(count, dtype=kind)]
            angles = xp.arange(count, dtype=xp.float64) * (2 * pi / period)
            return [formula(xp, angles).astype(kind)]

    Window.__doc__ = meaning


_window("HannWindow", lambda xp, a: 0.5 - 0.5 * xp.cos(a), "A raised cosine that ends in 0.")
_window(
    "HammingWindow",
    lambda xp, a: (25 - 21 * xp.cos(a)) / 46,
    "A raised cosine with the share that cancels the first side lobe.",
)
_window(
    "BlackmanWindow",
    lambda xp, a: 0.42 - 0.5 * xp.cos(a) + 0.08 * xp.cos(2 * a),
    "A sum of two cosines that ends in 0.",
)


@operator("MelWeightMatrix", since=17)
class MelWeightMatrix:
    """Triangles, evenly spaced on the mel scale, that sum a spectrum's bins into bands."""

    attributes = {"output_datatype": DType.FLOAT32.onnx}
    rows = staticmethod(_sizes_only)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """(dft_length // 2 + 1, bands)."""
        check_dtype(ctx, range(3), INDICES)
        check_dtype(ctx, (3, 4), FLOATS)
        bands = _known_size(ctx, 0, "num_mel_bins")
        length = _known_size(ctx, 1, "dft_length")
        bins: Dim = ctx.fresh_dim("bins") if length is None else floordiv(length, 2) + 1
        dtype = DType.from_onnx(ctx.attributes["output_datatype"])
        return [TensorType(dtype, (bins, ctx.fresh_dim("mel") if bands is None else bands))]

    @staticmethod
    def compute(
        ctx: ComputeContext, bands: Array, length: Array, rate: Array, low: Array, high: Array
    ) -> Sequence[Array]:
        """Edges are rounded down to bins, as ONNX's definition does; a rise of 0 bins is a 1."""
        xp = ctx.xp
        count, points, sample_rate = (ints(each)[0] for each in (bands, length, rate))
        if count < 0 or points < 0 or sample_rate <= 0:
            raise ValueError(f"{count} bands of {points} points at a rate of {sample_rate}")
        check_size(ctx, (points // 2 + 1, count), xp.float64)
        first, last = (_mel(float(each.reshape(()))) for each in (low, high))
        # ONNX divides by the number of edges, not of the steps between them.
        mels = xp.arange(count + 2) * ((last - first) / (count + 2)) + first
        hertz = 700 * (10 ** (mels / 2595) - 1)
        edges = xp.floor_divide((points + 1) * hertz, sample_rate)  # (bands + 2,)
        left, peak, right = edges[:-2], edges[1:-1], edges[2:]
        bins = xp.arange(points // 2 + 1, dtype=xp.float64)[:, None]
        rise = xp.where(peak > left, (bins - left) / xp.maximum(peak - left, 1), 1.0)
        fall = (right - bins) / xp.maximum(right - peak, 1)
        rising = (bins >= left) & (bins <= peak)
        falling = (bins >= peak) & (bins < right)
        weights = xp.where(falling, fall, xp.where(rising, rise, 0.0))
        kind = DType.from_onnx(ctx.attributes["output_datatype"]).numpy
        return [weights.astype(kind)]


def _mel(hertz: float) -> float:
    if hertz <= -700:
        raise ValueError(f"an edge at {hertz} Hz; it must not be negative")
    return 2595 * log10(1 + hertz / 700)
