"""Operators that draw random numbers: RandomNormal, RandomUniform and their Like forms, Bernoulli,
Multinomial, Dropout.

Numbers come from numpy's `RandomState`, whose streams never change, on every device. A node with a
seed draws the same numbers in every run, whatever ran before or beside it; without one, every run
draws others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

import numpy as np

from engine.dtypes import FLOAT8S, FLOATS, DType
from engine.ir.types import Dim, TensorType
from engine.ops.checks import check_dtype
from engine.ops.common import Array, check_size, ints, narrow, widen
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import REQUIRED, operator
from engine.ops.row_rules import follow
from engine.ops.rows import RowContext, RowState

Draw = Callable[[np.random.RandomState, Mapping[str, Any], tuple[int, ...]], np.ndarray]
SEEDS = 1 << 32


def _source(attributes: Mapping[str, Any]) -> np.random.RandomState:
    """Return where a run gets its numbers from."""
    seed = attributes["seed"]
    # Its streams are fixed for ever, which those of newer generators are not.
    return np.random.RandomState(None if seed is None else int(seed) % SEEDS)


def _check_seed(ctx: InferContext) -> None:
    seed = ctx.attributes["seed"]
    if seed is not None and not isfinite(seed):
        ctx.fail(f"seed is {seed}; expected a number")


def _float_type(ctx: InferContext, like: DType | None) -> DType:
    """The type that `dtype` names, else the input's; only floats can be drawn."""
    number = ctx.attributes["dtype"]
    dtype = like if number is None else DType.from_onnx(number)
    if dtype is None or not dtype.is_float:
        ctx.fail(f"random numbers cannot be {dtype}; dtype must name a float type")
    return dtype


def _drawn_apart(ctx: RowContext) -> Sequence[RowState]:
    """Without a seed all numbers are independent; with one, an item's depend on its place."""
    if ctx.attributes["seed"] is not None:
        return ctx.mixed("with a seed, an item's numbers depend on its place in the batch")
    return follow(ctx, lambda axis: axis)


def _drawing(name: str, draw: Draw, defaults: Mapping[str, Any], meaning: str) -> None:
    """Register an operator with a stated shape, and one with the shape of its input."""
    shared = {**defaults, "seed": None}

    @operator(name, since=(1, 22))
    class Stated:
        attributes = {**shared, "dtype": DType.FLOAT32.onnx, "shape": REQUIRED}
        deterministic = False

        @staticmethod
        def infer(ctx: InferContext) -> Sequence[TensorType]:
            """The stated type and shape."""
            _check_seed(ctx)
            shape = ints(ctx.attributes["shape"])
            if min(shape, default=0) < 0:
                ctx.fail(f"a shape cannot be {list(shape)}")
            return [TensorType(_float_type(ctx, None), shape)]

        @staticmethod
        def compute(ctx: ComputeContext) -> Sequence[Array]:
            """Drawn in float64 and rounded once."""
            shape = ints(ctx.attributes["shape"])
            check_size(ctx, shape, np.float64)
            kind = DType.from_onnx(ctx.attributes["dtype"]).numpy
            values = draw(_source(ctx.attributes), ctx.attributes, shape)
            return [ctx.xp.asarray(np.asarray(values).astype(kind))]

    @operator(f"{name}Like", since=(1, 22))
    class Like:
        attributes = {**shared, "dtype": None}
        deterministic = False
        rows = staticmethod(_drawn_apart)

        @staticmethod
        def infer(ctx: InferContext) -> Sequence[TensorType]:
            """The input's shape, and its type unless another is stated."""
            _check_seed(ctx)
            return [ctx.type(0).with_dtype(_float_type(ctx, ctx.dtype(0)))]

        @staticmethod
        def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
            """Drawn in float64 and rounded once."""
            check_size(ctx, x.shape, np.float64)
            number = ctx.attributes["dtype"]
            kind = x.dtype if number is None else DType.from_onnx(number).numpy
            values = draw(_source(ctx.attributes), ctx.attributes, tuple(x.shape))
            return [ctx.xp.asarray(np.asarray(values).astype(kind))]

    Stated.__doc__ = f"{meaning}, in a stated shape."
    Like.__doc__ = f"{meaning}, in the shape of the input."


_drawing(
    "RandomNormal",
    lambda source, a, shape: source.normal(a["mean"], abs(a["scale"]), shape),
    {"mean": 0.0, "scale": 1.0},
    "Numbers of a normal distribution",
)
_drawing(
    "RandomUniform",
    lambda source, a, shape: source.random_sample(shape) * (a["high"] - a["low"]) + a["low"],
    {"high": 1.0, "low": 0.0},
    "Numbers that are equally likely from `low` up to `high`",
)


@operator("Bernoulli", since=(15, 22))
class Bernoulli:
    """One with the probability that each element states, else zero."""

    attributes = {"dtype": None, "seed": None}
    deterministic = False
    rows = staticmethod(_drawn_apart)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The input's shape, and its type unless another is stated."""
        _check_seed(ctx)
        check_dtype(ctx, 0, FLOATS)
        number = ctx.attributes["dtype"]
        return [ctx.type(0) if number is None else ctx.type(0).with_dtype(DType.from_onnx(number))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """A probability outside of 0 to 1 counts as the nearer bound."""
        check_size(ctx, x.shape, np.float64)
        number = ctx.attributes["dtype"]
        kind = x.dtype if number is None else DType.from_onnx(number).numpy
        chances = ctx.xp.asarray(_source(ctx.attributes).random_sample(x.shape))
        return [(chances < widen(ctx.xp, x)).astype(kind)]


@operator("Multinomial", since=(7, 22))
class Multinomial:
    """Classes drawn by logarithms of how likely they are, several for each row."""

    attributes = {"dtype": DType.INT32.onnx, "sample_size": 1, "seed": None}
    deterministic = False
    rows = staticmethod(_drawn_apart)

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """int32 or int64 [N, samples]."""
        _check_seed(ctx)
        check_dtype(ctx, 0, FLOATS)
        shape, dtype = ctx.shape(0), DType.from_onnx(ctx.attributes["dtype"])
        if dtype not in (DType.INT32, DType.INT64):
            ctx.fail(f"classes cannot be {dtype}; expected int32 or int64")
        if ctx.attributes["sample_size"] < 1 or (shape is not None and len(shape) != 2):
            ctx.fail(f"{ctx.attributes['sample_size']} samples of {ctx.type(0)}; expected [N, C]")
        rows: Dim = ctx.fresh_dim("N") if shape is None else shape[0]
        return [TensorType(dtype, (rows, int(ctx.attributes["sample_size"])))]

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Each row's probabilities add up to one; where a number falls among them is its class."""
        xp, samples = ctx.xp, int(ctx.attributes["sample_size"])
        count, classes = x.shape
        check_size(ctx, (count, samples + classes), np.float64)
        kind = DType.from_onnx(ctx.attributes["dtype"]).numpy
        if not count:
            return [xp.zeros((0, samples), kind)]
        weights = xp.exp((x - x.max(axis=1, keepdims=True)).astype(np.float64))
        edges = xp.cumsum(weights, axis=1)
        if not bool(xp.isfinite(edges).all()):
            raise ValueError("a row has no class with a finite logarithm of its probability")
        # Row i covers i to i + 1, so that one search serves all rows.
        first = xp.arange(count, dtype=np.float64)[:, None]
        places = xp.asarray(_source(ctx.attributes).random_sample((count, samples))) + first
        borders = (edges / edges[:, -1:] + first).reshape(-1)
        found = xp.searchsorted(borders, places.reshape(-1), side="right").reshape(count, samples)
        return [xp.clip(found - xp.arange(count)[:, None] * classes, 0, classes - 1).astype(kind)]

    @staticmethod
    def flops(ctx: InferContext) -> Dim:
        """An exponential per class."""
        shape = ctx.shape(0)
        return 0 if shape is None else shape[0] * shape[1]


# ---------------------------------------------------------------------- Dropout

TRAINING_INPUT = 12  # the opset from which an input says whether to train


def _may_train(ctx: InferContext | RowContext) -> bool:
    """Whether elements may be dropped; a model is served, so files of old opsets never do it."""
    if ctx.version < TRAINING_INPUT or len(ctx.types) < 3 or ctx.types[2] is None:
        return False
    fixed = ctx.constants[2] if len(ctx.constants) > 2 else None
    return fixed is None or bool(fixed.reshape(()))


@operator("Dropout", since=(1, 6, 7, 10, 12, 13, 22))
class Dropout:
    """The input itself; in training mode, with elements set to zero and the others scaled up.

    The mask says what was kept.
    """

    attributes = {"consumed_inputs": (), "is_test": 1, "ratio": 0.5, "seed": None}
    deterministic = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """Like the input; the mask is bool from opset 10 on."""
        _check_seed(ctx)
        check_dtype(ctx, (0, 1), (*FLOATS, *FLOAT8S))
        mask = ctx.type(0) if ctx.version < 10 else ctx.type(0).with_dtype(DType.BOOL)
        return [ctx.type(0), mask][: ctx.n_outputs]

    @staticmethod
    def compute(
        ctx: ComputeContext, x: Array, ratio: Array | None = None, training: Array | None = None
    ) -> Sequence[Array]:
        """No copy of the values when nothing is dropped."""
        xp, kind = ctx.xp, x.dtype if ctx.version < 10 else bool
        share = 0.5 if ratio is None else float(widen(xp, ratio).reshape(()))
        if training is None or not bool(training.reshape(())) or share == 0:
            return [x, xp.ones(x.shape, dtype=kind)] if ctx.n_outputs > 1 else [x]
        if not 0 <= share < 1:
            raise ValueError(f"ratio is {share}; expected 0 up to, not including, 1")
        check_size(ctx, x.shape, np.float64)
        kept = xp.asarray(_source(ctx.attributes).random_sample(x.shape) >= share)
        wide = widen(xp, x)
        y = xp.where(kept, wide * wide.dtype.type(1 / (1 - share)), wide.dtype.type(0))
        return [narrow(y, x.dtype), kept][: ctx.n_outputs]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items stay where they are, unless a seed decides by their place what is dropped."""
        if _may_train(ctx) and ctx.attributes["seed"] is not None:
            return ctx.mixed("with a seed, what an item loses depends on its place in the batch")
        return follow(ctx, lambda axis: axis)
