"""Features made ready for a model, from ai.onnx.ml: scaled, normalised, imputed, picked, joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.dtypes import DType
from engine.ir.types import Dim, TensorType, element_count
from engine.ops.checks import INDICES, check_dtype
from engine.ops.common import Array, check_size, ints
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.ml_common import (
    DOMAIN,
    NUMBERS,
    as_matrix,
    check_choice,
    elementwise_rows,
    feature_count,
    real,
)
from engine.ops.registry import operator
from engine.ops.row_rules import follow, side_inputs_problem
from engine.ops.rows import RowContext, RowState, rows_on


def _along_features(ctx: RowContext) -> Sequence[RowState]:
    """The last axis holds an item's features; items must lie in front of it."""
    rank = ctx.rank(0)
    if not rank:
        return ctx.mixed("its rank is unknown")
    return follow(ctx, lambda axis: axis if axis < rank - 1 else None)


def _check_length(ctx: InferContext, *names: str) -> None:
    """Refuse attributes that have neither one number nor one per feature."""
    features = feature_count(ctx)
    for name in names:
        length = len(ctx.attributes[name])
        if length != 1 and features is not None and length != features:
            ctx.fail(f"{name} has {length} numbers; expected 1, or one per feature ({features})")


def _per_feature(xp: Any, numbers: Sequence[float], x: Array, dtype: Any) -> Array:
    """Return one number for all features, or one for each, as an array that fits `x`."""
    if len(numbers) != 1 and (not x.ndim or len(numbers) != x.shape[-1]):
        raise ValueError(f"{len(numbers)} numbers do not fit features of {list(x.shape)}")
    return xp.asarray(numbers).astype(dtype)


WIDEST = 1 << 31  # features of one input; more would only overflow


@operator("Scaler", since=1, domain=DOMAIN)
class Scaler:
    """(x - offset) * scale, with one number for all features or one for each."""

    attributes = {"offset": (), "scale": ()}
    rows = staticmethod(_along_features)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """float32 in the same shape."""
        check_dtype(ctx, 0, NUMBERS)
        _check_length(ctx, *(name for name in ("offset", "scale") if ctx.attributes[name]))
        return [ctx.type(0).with_dtype(DType.FLOAT32)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """float64 computes as it is and rounds once; everything else in float32."""
        xp, values = ctx.xp, real(ctx.xp, x)
        offset, scale = ctx.attributes["offset"] or (0.0,), ctx.attributes["scale"] or (1.0,)
        offset, scale = (_per_feature(xp, each, x, values.dtype) for each in (offset, scale))
        y = (values - offset) * scale
        return [y.reshape(x.shape).astype(xp.float32, copy=False)]


@operator("Normalizer", since=1, domain=DOMAIN)
class Normalizer:
    """Each row over its largest value, its sum of sizes, or its length; rows of zeros stay."""

    attributes = {"norm": "MAX"}
    rows = staticmethod(_along_features)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """float32 in the same shape."""
        check_dtype(ctx, 0, NUMBERS)
        check_choice(ctx, "norm", ("MAX", "L1", "L2"))
        return [ctx.type(0).with_dtype(DType.FLOAT32)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """float64 computes as it is and rounds once; everything else in float32."""
        xp, values = ctx.xp, real(ctx.xp, x)
        if not x.size:
            return [values.astype(xp.float32)]
        divisor = _norm(xp, values, ctx.attributes["norm"])
        divisor = xp.where(divisor == 0, values.dtype.type(1), divisor)
        return [(values / divisor).astype(xp.float32, copy=False)]


def _norm(xp: Any, x: Array, name: str) -> Array:
    if name == "MAX":
        return x.max(axis=-1, keepdims=True)
    if name == "L1":
        return abs(x).sum(axis=-1, keepdims=True)
    return xp.sqrt((x * x).sum(axis=-1, keepdims=True))


@operator("Binarizer", since=1, domain=DOMAIN)
class Binarizer:
    """One where a value is above the threshold, else zero."""

    attributes = {"threshold": 0.0}
    rows = staticmethod(elementwise_rows)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input."""
        check_dtype(ctx, 0, NUMBERS)
        return [ctx.type(0)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Compared in the input's type."""
        return [(x > ctx.attributes["threshold"]).astype(x.dtype)]


@operator("Imputer", since=1, domain=DOMAIN)
class Imputer:
    """Replaces one value, maybe NaN, by a number for all features or one for each."""

    attributes = {
        "imputed_value_floats": (),
        "imputed_value_int64s": (),
        "replaced_value_float": 0.0,
        "replaced_value_int64": 0,
    }

    @staticmethod
    def names(dtype: DType) -> tuple[str, str]:
        """The attributes that hold for this element type."""
        if dtype.is_float:
            return "imputed_value_floats", "replaced_value_float"
        return "imputed_value_int64s", "replaced_value_int64"

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input."""
        check_dtype(ctx, 0, NUMBERS)
        name, _ = Imputer.names(ctx.dtype(0))
        if not ctx.attributes[name]:
            ctx.fail(f"{name} is empty; it must say what to put into {ctx.dtype(0)}")
        _check_length(ctx, name)
        return [ctx.type(0)]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """NaN is equal to no number: it is looked for apart."""
        xp = ctx.xp
        imputed, replaced = (
            ctx.attributes[name] for name in Imputer.names(DType.from_numpy(x.dtype))
        )
        is_nan = replaced != replaced
        found = xp.isnan(x) if is_nan else x == xp.asarray(replaced).astype(x.dtype)
        y = xp.where(found, _per_feature(xp, imputed, x, x.dtype), x)
        return [y.reshape(x.shape)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """One number for all features makes it elementwise."""
        kind = ctx.types[0]
        if kind is None or len(ctx.attributes[Imputer.names(kind.dtype)[0]]) != 1:
            return _along_features(ctx)
        return elementwise_rows(ctx)


@operator("ArrayFeatureExtractor", since=1, domain=DOMAIN)
class ArrayFeatureExtractor:
    """Picks entries of the last axis by index."""

    host = True  # the entries may be strings

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """As many entries as indices; a single row becomes a matrix of one."""
        check_dtype(ctx, 1, INDICES)
        x, indices = ctx.type(0), ctx.shape(1)
        if x.shape is None:
            return [x]
        if not x.shape:
            ctx.fail("a scalar has no entries to pick")
        count: Dim = ctx.fresh_dim("picked")
        if indices is not None:
            count = 1
            for dim in indices:
                count = count * dim
        return [x.with_shape((*(x.shape[:-1] or (1,)), count))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, indices: Array) -> Sequence[Array]:
        """Indices count from 0; one outside of the axis is an error."""
        picked = indices.reshape(-1)
        size = x.shape[-1]
        if picked.size and not 0 <= int(picked.min()) <= int(picked.max()) < size:
            raise ValueError(f"indices must be 0 to {size - 1}")
        check_size(ctx, (*x.shape[:-1], picked.size), x.dtype)
        y = ctx.xp.take(x, picked, axis=-1)
        return [y[None, :] if x.ndim == 1 else y]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie in front of the picked axis, or pick their own from what all share."""
        picks, shape, rank = ctx.rows[1], ctx.types[1], ctx.outputs[0].rank
        if picks is None or not picks.is_rows or picks.axis != 0 or picks.outer != 1:
            return _along_features(ctx)
        if shape is None or shape.shape is None or rank is None or not ctx.only(1):
            return ctx.mixed("a rank is unknown, or its data carries items too")
        return [rows_on(rank - 1, picks.block * element_count(shape.shape[1:]))]


@operator("FeatureVectorizer", since=1, domain=DOMAIN)
class FeatureVectorizer:
    """Joins features of several inputs side by side, each cut or filled with zeros to its width."""

    attributes = {"inputdimensions": ()}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """float32 [N, sum of the widths]."""
        check_dtype(ctx, range(len(ctx.types)), NUMBERS)
        widths = ints(ctx.attributes["inputdimensions"])
        if widths and (
            len(widths) != len(ctx.types) or not 0 <= min(widths) <= max(widths) <= WIDEST
        ):
            ctx.fail(f"inputdimensions is {list(widths)}; expected {len(ctx.types)} widths")
        rows: Dim = ctx.fresh_dim("N")
        total: Dim = 0
        for i in reversed(range(len(ctx.types))):
            shape = ctx.shape(i)
            if shape is not None and len(shape) not in (1, 2):
                ctx.fail(f"input {i} must be [N, C] or [C], it is {ctx.type(i)}")
            if shape is not None:
                rows = shape[0] if len(shape) == 2 else 1
            own: Dim = ctx.fresh_dim("C") if shape is None else shape[-1]
            total = total + (widths[i] if widths else own)
        return [TensorType(DType.FLOAT32, (rows, total))]

    @staticmethod
    def compute(ctx: ComputeContext, *xs: Array) -> Sequence[Array]:
        """Inputs must have the same number of rows."""
        xp, parts = ctx.xp, [as_matrix(x) for x in xs]
        widths = ints(ctx.attributes["inputdimensions"]) or [part.shape[1] for part in parts]
        check_size(ctx, (parts[0].shape[0], sum(widths)), xp.float32)
        y = xp.zeros((parts[0].shape[0], sum(widths)), xp.float32)
        start = 0
        for part, width in zip(parts, widths, strict=True):
            if part.shape[0] != y.shape[0]:
                raise ValueError(f"{part.shape[0]} rows beside {y.shape[0]}")
            kept = min(width, part.shape[1])
            y[:, start : start + kept] = part[:, :kept]
            start += width
        return [y]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Every input must carry the items as rows."""
        problem = side_inputs_problem(ctx, range(len(ctx.rows)))
        states = {state for state in ctx.rows if state is not None}
        if problem or len(states) != 1 or any(ctx.rank(i) != 2 for i in range(len(ctx.rows))):
            return ctx.mixed(problem or "its inputs do not all carry the items as rows")
        (state,) = states
        if not state.is_rows or state.axis != 0:
            return ctx.mixed("its inputs do not all carry the items as rows")
        return ctx.all_outputs(rows_on(0, state.block, state.outer))
