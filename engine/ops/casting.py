"""Cast and CastLike: one element type to another.

Between numbers a cast is an expression like any elementwise operator's; text is read and written
element by element.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from engine.dtypes import STRINGS, DType
from engine.errors import InvalidModel
from engine.ir.expr import Expr, argument, cast
from engine.ir.graph import Array
from engine.ir.render import compile_numpy
from engine.ir.types import TensorType
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.define import as_kernel
from engine.ops.registry import REQUIRED, Kernel, operator
from engine.ops.rows import SIZES, RowContext, RowState
from engine.ops.symbolic import evaluate_symbolic

ROUND_MODES = ("up", "down", "nearest")
POWER_BIAS, POWER_NAN = 127, 255  # codes of float8e8m0: that of 1, and that of NaN

WORDS: Mapping[str, float] = MappingProxyType(
    {"inf": np.inf, "+inf": np.inf, "-inf": -np.inf, "nan": np.nan}
)


def cast_expression(source: DType, target: DType, saturate: bool) -> Expr:
    """Return the expression of a cast between types that are not strings."""
    x = argument(0, source)
    # Narrow floats reach each other and integers through float32, which holds all of their values;
    # integers of less than a byte through one, for no library converts them to each other.
    through = DType.INT8 if source.is_integer and source.bits < 8 else source.compute
    return cast(cast(x, through), target, saturate=saturate and is_small_float(target))


def is_small_float(dtype: DType) -> bool:
    """Whether the type is one of those whose casts may saturate."""
    return dtype.is_float and dtype.bits <= 8


@operator("Cast", since=(1, 6, 9, 13, 19, 21, 23, 24, 25))
class Cast:
    """Element type stated by the attribute `to`."""

    attributes = MappingProxyType({"to": REQUIRED, "saturate": 1, "round_mode": "up"})

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The shape stays."""
        check_round_mode(ctx)
        return (ctx.type(0).with_dtype(target_of(ctx.attributes["to"])),)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array) -> Sequence[Array]:
        """Convert every element."""
        target, attributes = target_of(ctx.attributes["to"]), ctx.attributes
        return (convert(ctx.xp, x, target, bool(attributes["saturate"]), attributes["round_mode"]),)

    @staticmethod
    def bind(ctx: ComputeContext) -> Kernel | None:
        """Compile the cast of the one type that the node has."""
        if not ctx.types or ctx.types[0] is None:
            return None
        source, target = ctx.types[0].dtype, target_of(ctx.attributes["to"])
        if DType.STRING in (source, target) or target is DType.FLOAT8E8M0:
            return None
        expr = cast_expression(source, target, bool(ctx.attributes["saturate"]))
        return as_kernel(compile_numpy(expr, ctx.xp, arity=1), 1)

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items stay where they are."""
        return _like_first(ctx)

    @staticmethod
    def values(ctx: InferContext) -> Sequence[np.ndarray | None]:
        """Integers stay the same numbers."""
        return _known_values(ctx, target_of(ctx.attributes["to"]))


@operator("CastLike", since=(15, 19, 21, 23, 24, 25))
class CastLike:
    """Element type of the second input."""

    attributes = MappingProxyType({"saturate": 1, "round_mode": "up"})

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[TensorType]:
        """The shape stays."""
        check_round_mode(ctx)
        return (ctx.type(0).with_dtype(ctx.dtype(1)),)

    @staticmethod
    def compute(ctx: ComputeContext, x: Array, like: Array) -> Sequence[Array]:
        """Convert every element."""
        target, attributes = DType.from_numpy(like.dtype), ctx.attributes
        return (convert(ctx.xp, x, target, bool(attributes["saturate"]), attributes["round_mode"]),)

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items stay where they are; of the second input only the type counts."""
        return _like_first(ctx)

    @staticmethod
    def values(ctx: InferContext) -> Sequence[np.ndarray | None]:
        """Integers stay the same numbers."""
        return _known_values(ctx, ctx.dtype(1))


def target_of(to: int | str) -> DType:
    """Return the type that the attribute `to` means: a number, or before opset 6 a name."""
    if isinstance(to, str):
        names = {"FLOAT": DType.FLOAT32, "DOUBLE": DType.FLOAT64}
        found = names.get(to) or next((d for d in DType if d.name == to), None)
        if found is None:
            raise InvalidModel(f"attribute 'to' is {to!r}, expected the name of an element type")
        return found
    return DType.from_onnx(to)


def check_round_mode(ctx: InferContext) -> None:
    """Refuse a way of rounding that ONNX does not name."""
    if ctx.attributes["round_mode"] not in ROUND_MODES:
        ctx.fail(f"round_mode is {ctx.attributes['round_mode']!r}, expected up, down or nearest")


def convert(xp: Any, x: Array, target: DType, saturate: bool, round_mode: str = "up") -> Array:
    """Return the elements of `x` in another type; `round_mode` counts for powers of two only."""
    source = DType.from_numpy(x.dtype)
    if source is target:
        return x
    if target in STRINGS:
        return _each(_writer(source), x, object)
    if source in STRINGS:
        through = _each(_read, x, np.float64) if target.is_float else _each(int, x, np.int64)
        return convert(xp, through, target, saturate, round_mode)
    if target is DType.FLOAT8E8M0:
        return to_power_of_two(xp, x, saturate, round_mode)
    return compile_numpy(cast_expression(source, target, saturate), xp)(x)


def to_power_of_two(xp: Any, x: Array, saturate: bool, round_mode: str) -> Array:
    """Numbers as float8e8m0, an exponent from -127 to 127 and nothing else.

    Rounds up, down, or to the nearest with ties up. What is too large or too small becomes the
    largest or smallest power, without `saturate` NaN; negative numbers, which ONNX leaves open,
    are NaN.
    """
    wide = x.astype(xp.float32)
    fraction, exponent = xp.frexp(xp.abs(wide))  # fraction * 2**exponent, fraction in [1/2, 1)
    rounds_up = fraction > (0.5 if round_mode == "up" else 1.0)
    if round_mode == "nearest":
        rounds_up = fraction >= 0.75
    code = exponent.astype(xp.int32) - 1 + POWER_BIAS + rounds_up
    code = xp.where(wide == 0, -1, xp.where(xp.isinf(wide), POWER_NAN, code))
    if saturate:
        code = xp.clip(code, 0, POWER_NAN - 1)
    bad = xp.isnan(wide) | (wide < 0) | (code < 0) | (code > POWER_NAN)
    return xp.where(bad, POWER_NAN, code).astype(xp.uint8).view(DType.FLOAT8E8M0.numpy)


def _each(function: Callable[[Any], Any], x: Array, dtype: Any) -> Array:
    result = np.empty(x.shape, dtype)
    result.reshape(-1)[...] = [function(v) for v in x.reshape(-1).tolist()]
    return result


def _read(text: str) -> float:
    return WORDS.get(text.lower(), None) or float(text)


def _writer(source: DType) -> Callable[[Any], str]:
    """Return how a number becomes text: floats as the shortest text that reads back the same."""
    if not source.is_float:
        return lambda v: str(int(v))
    scalar = np.float64 if source is DType.FLOAT64 else np.float32
    return lambda v: _written(scalar(v))


def _written(value: np.floating[Any]) -> str:
    if np.isinf(value):
        return "INF" if value > 0 else "-INF"
    return (
        "NaN" if np.isnan(value) else np.format_float_positional(value, trim="0").removesuffix(".0")
    )


def _like_first(ctx: RowContext) -> Sequence[RowState]:
    state = ctx.rows[0]
    return ctx.all_outputs(SIZES if state is None else state)


def _known_values(ctx: InferContext, target: DType) -> Sequence[np.ndarray | None]:
    source = ctx.dtype(0)
    if not source.is_integer or not target.is_integer:
        return (None,)
    return (evaluate_symbolic(cast_expression(source, target, False), ctx.symbolic),)
