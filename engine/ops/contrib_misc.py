"""Operators of com.microsoft that came before ONNX's own, or beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType, element_count
from engine.ops.common import Array, check_size, int_value, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.contrib_common import MICROSOFT, together
from engine.ops.generating import Range, Trilu
from engine.ops.image import GridSample
from engine.ops.indexing import GatherND
from engine.ops.joining import Pad
from engine.ops.registry import REQUIRED, operator
from engine.ops.row_rules import follow, reshaped
from engine.ops.rows import RowContext, RowState

# Like ONNX's own of today.
operator("Trilu", since=1, domain=MICROSOFT)(Trilu)
operator("GatherND", since=1, domain=MICROSOFT)(GatherND)


@operator("GridSample", since=1, domain=MICROSOFT)
class OldGridSample(GridSample):
    """ONNX's GridSample with the names that its modes had first."""

    attributes = {"align_corners": 0, "mode": "bilinear", "padding_mode": "zeros"}


@operator("Pad", since=1, domain=MICROSOFT)
class OldPad(Pad):
    """ONNX's Pad of opset 11; the pads may be a matrix of one row."""

    attributes = {"mode": "constant", "pads": None, "paddings": None, "value": 0.0}


@operator("Range", since=1, domain=MICROSOFT)
class OldRange:
    """ONNX's Range, with a step of 1 where none is given."""

    rows = staticmethod(Range.rows)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """As many as fit, where the bounds are known."""
        if ctx.has(2):
            return Range.infer(ctx)
        one = np.ones((), ctx.dtype(0).numpy)
        known = np.array(1, dtype=object) if ctx.dtype(0).is_integer else None
        return Range.infer(
            replace(
                ctx,
                types=(*ctx.types[:2], ctx.type(0)),
                constants=(*ctx.constants[:2], one),
                symbolic=(*ctx.symbolic[:2], known),
            )
        )

    @staticmethod
    def compute(
        ctx: ComputeContext, start: Array, limit: Array, delta: Array | None = None
    ) -> Sequence[Array]:
        """Like Range."""
        step = ctx.xp.ones((), dtype=start.dtype) if delta is None else delta
        return Range.compute(ctx, start, limit, step)


@operator("ExpandDims", since=1, domain=MICROSOFT)
class ExpandDims:
    """A new axis of size 1, where an input says."""

    moves = True

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """One dim more."""
        x, known = ctx.type(0), ctx.value(1)
        axis = int_value(known[0]) if known else None
        if x.shape is None or axis is None:
            return [x.with_shape(x.shape and (ctx.fresh_dim("d") for _ in (*x.shape, 1)))]
        place = ctx.normal_axis(axis, len(x.shape) + 1)
        return [x.with_shape((*x.shape[:place], 1, *x.shape[place:]))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, axis: Array) -> Sequence[Array]:
        """A view."""
        return [ctx.xp.expand_dims(x, int(axis.reshape(-1)[0]))]

    rows = staticmethod(reshaped)


@operator("Inverse", since=1, domain=MICROSOFT)
class Inverse:
    """The inverse of each matrix on the last two axes."""

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input."""
        x = ctx.type(0)
        if x.shape is not None:
            sides = {int_value(d) for d in x.shape[-2:]} - {None}
            if len(x.shape) < 2 or len(sides) > 1:
                ctx.fail(f"expected square matrices, got {list(x.shape)}")
        return [x]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Narrow floats compute in float32 and round once; a singular matrix is an error."""
        return [narrow(ctx.xp.linalg.inv(widen(ctx.xp, x)), x.dtype)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie in front of the matrices."""
        rank = ctx.rank(0)
        if rank is None:
            return ctx.mixed("its rank is unknown")
        return follow(ctx, lambda axis: axis if axis < rank - 2 else None)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per element of a product of the matrix with itself."""
        shape = ctx.shape(0)
        return 0 if not shape else 2 * element_count(shape) * shape[-1]


@operator("Unique", since=1, domain=MICROSOFT)
class Unique:
    """The different values of a vector as they first occur, the place of each element's, counts."""

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """How many there are only running tells."""
        x = ctx.type(0)
        if x.shape is not None and len(x.shape) != 1:
            ctx.fail(f"expected a vector, got {list(x.shape)}")
        count = (ctx.fresh_dim("unique"),)
        numbers = TensorType(DType.INT64, count)
        kinds = [x.with_shape(count), numbers.with_shape(x.shape), numbers]
        return kinds[: ctx.n_outputs]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Sort, then order by the first place."""
        xp = ctx.xp
        _, first, inverse, counts = xp.unique(
            x, return_index=True, return_inverse=True, return_counts=True
        )
        order = xp.argsort(first)
        rank = xp.empty(order.shape, dtype=xp.int64)
        rank[order] = xp.arange(len(order))
        places = rank[inverse.reshape(-1)]
        return [x[first[order]], places, counts[order].astype(xp.int64)][: ctx.n_outputs]


@operator("NGramRepeatBlock", since=1, domain=MICROSOFT)
class NGramRepeatBlock:
    """Scores of next tokens, minus infinity where one would repeat an n-gram of the text."""

    attributes = {"ngram_size": REQUIRED}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the scores."""
        if ctx.attributes["ngram_size"] < 1:
            ctx.fail(f"ngram_size must be 1 or more, got {ctx.attributes['ngram_size']}")
        for i in (0, 1):
            shape = ctx.shape(i)
            if shape is not None and len(shape) != 2:
                ctx.fail(f"expected inputs of rank 2, got {list(shape)}")
        return [ctx.type(1)]

    @staticmethod
    def compute(ctx: ComputeContext, ids: Array, scores: Array) -> Sequence[Array]:
        """Compare every run of n - 1 tokens with the last one."""
        xp, size = ctx.xp, int(ctx.attributes["ngram_size"])
        result, length = xp.array(scores, copy=True), ids.shape[1]
        runs = length - size + 1  # those that a token follows
        if runs < 1:
            return [result]
        same = xp.ones((ids.shape[0], runs), dtype=bool)
        for k in range(size - 1):
            same &= ids[:, k : k + runs] == ids[:, runs + k, None]
        follows = ids[:, size - 1 : size - 1 + runs]
        if follows.size and not 0 <= int(follows.min()) <= int(follows.max()) < scores.shape[1]:
            raise ValueError(f"a token is outside of the {scores.shape[1]} that have a score")
        items, places = xp.nonzero(same)
        result[items, follows[items, places]] = -xp.inf
        return [result]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Texts and their scores lie on axis 0."""
        return together(ctx, (0, 1), lambda axis: 0 if axis == 0 else None)


@operator("CDist", since=1, domain=MICROSOFT)
class CDist:
    """The distance between every row of A and every row of B, euclidean or its square."""

    attributes = {"metric": "sqeuclidean"}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Rows of A, rows of B."""
        if ctx.attributes["metric"] not in ("euclidean", "sqeuclidean"):
            ctx.unsupported(f"the metric {ctx.attributes['metric']!r} is not supported")
        a, b = ctx.shape(0), ctx.shape(1)
        for shape in (a, b):
            if shape is not None and len(shape) != 2:
                ctx.fail(f"expected matrices, got {list(shape)}")
        rows: list[Dim] = [ctx.fresh_dim("rows") if shape is None else shape[0] for shape in (a, b)]
        return [ctx.type(0).with_shape(rows)]

    @staticmethod
    def compute(ctx: ComputeContext, a: Array, b: Array) -> Sequence[Array]:
        """`a a' + b b' - 2 a b'`, held above 0."""
        xp = ctx.xp
        check_size(ctx, (a.shape[0], b.shape[0]), a.dtype)
        square = xp.matmul(a, b.T) * a.dtype.type(-2)
        square += (a * a).sum(axis=1)[:, None]
        square += (b * b).sum(axis=1)
        square = xp.maximum(square, a.dtype.type(0))
        return [xp.sqrt(square) if ctx.attributes["metric"] == "euclidean" else square]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Rows of A are independent."""
        return follow(ctx, lambda axis: 0 if axis == 0 else None)

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """Two per multiply-add."""
        a, b = ctx.shape(0), ctx.shape(1)
        return 0 if a is None or b is None else 2 * element_count(a) * b[0]


@operator("IsAllFinite", since=1, domain=MICROSOFT)
class IsAllFinite:
    """Whether no input holds an infinity or NaN, or only one kind of them is asked for."""

    attributes = {"isinf_only": 0, "isnan_only": 0}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """A scalar."""
        return [TensorType(DType.BOOL, ())]

    @staticmethod
    def compute(ctx: ComputeContext, *inputs: Array) -> Sequence[Array]:
        """Any one bad element decides."""
        xp, attributes = ctx.xp, ctx.attributes
        good: Any = xp.asarray(True)
        for x in inputs:
            wide = widen(xp, x)
            bad = ~xp.isfinite(wide)
            bad = xp.isinf(wide) if attributes["isinf_only"] else bad
            bad = xp.isnan(wide) if attributes["isnan_only"] else bad
            good = good & ~bad.any()
        return [xp.asarray(good)]
