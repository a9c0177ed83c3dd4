"""Elementwise operators on pictures: where an operand lies as a picture, the result does, too."""

from __future__ import annotations

from collections.abc import Sequence

from engine.cpu.lower.context import Lowering
from engine.ir.expr import Expr
from engine.ir.graph import Node


def lower_on_images(
    ctx: Lowering, node: Node, expr: Expr, names: Sequence[str], output: str
) -> bool:
    """Add the step on pictures, if an operand is one and all others fit; whether it did."""
    return False
