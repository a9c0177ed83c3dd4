"""Gated activations of two inputs: SwiGLU."""

from __future__ import annotations

from engine.dtypes import FLOATS
from engine.ir.expr import Expr, sigmoid
from engine.ops.define import elementwise


@elementwise("SwiGLU", since=28, types=FLOATS)
def swiglu(gate: Expr, value: Expr, *, alpha: float = 1.0) -> Expr:
    """`gate * sigmoid(alpha * gate) * value`, from Shazeer's "GLU Variants" (2020)."""
    return gate * sigmoid(gate * alpha) * value
