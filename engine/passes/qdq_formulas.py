"""Quantization as expressions."""

from __future__ import annotations

from collections.abc import Sequence

from engine.dtypes import DType
from engine.ir.expr import Expr, argument, cast, round_even, select
from engine.ir.expr_text import write_expr
from engine.ir.graph import Node
from engine.ops.fused import FUSED_DOMAIN, FUSED_VERSION

FLOAT = DType.FLOAT32


def float_argument(index: int) -> Expr:
    """Return input `index`, a float32."""
    return argument(index, FLOAT)


def quantized(steps: Expr, zero_point: Expr, dtype: DType) -> Expr:
    """Return a number, in steps, rounded to even, shifted and held to a type's range; NaN is the
    smallest value.
    """
    low, high = bounds(dtype)
    shifted = round_even(steps) + zero_point
    held = select(shifted > low, shifted, low)
    return cast(select(held < high, held, high), dtype)


def bounds(dtype: DType) -> tuple[float, float]:
    """Return the smallest and largest value of an integer type."""
    if dtype.is_signed:
        return -float(1 << (dtype.bits - 1)), float((1 << (dtype.bits - 1)) - 1)
    return 0.0, float((1 << dtype.bits) - 1)


def dequantized(integer: Expr, scale: Expr, zero_point: Expr) -> Expr:
    """Return the number that an integer stands for."""
    return (cast(integer, FLOAT) - zero_point) * scale


def scaled(integer: Expr, scale: Expr) -> Expr:
    """Return the number that an integer without a zero point stands for."""
    return cast(integer, FLOAT) * scale


def expression_node(expr: Expr, inputs: Sequence[str], output: str, name: str) -> Node:
    """Return a node that computes an expression of its inputs."""
    return Node(
        "Elementwise",
        tuple(inputs),
        (output,),
        {"expression": write_expr(expr)},
        domain=FUSED_DOMAIN,
        version=FUSED_VERSION,
        name=name,
    )
