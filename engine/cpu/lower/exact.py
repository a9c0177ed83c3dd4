"""Which floats must have the reference's bits: those that are rounded to whole numbers next."""

from __future__ import annotations

from engine.cpu.lower.context import Lowering
from engine.dtypes import DType
from engine.ir.expr_text import read_expr
from engine.ops.fused import text_of_attribute


def is_rounded_next(ctx: Lowering, name: str) -> bool:
    """Whether an operator that reads a float32 array quantizes it."""
    if ctx.dtype(name) is not DType.FLOAT32:
        return False
    readers = ctx.graph.consumers.get(name, ())
    texts = [node.attributes.get(key) for node in readers for key in ("expression", "epilogue")]
    return any(text is not None and _rounds(text_of_attribute(text)) for text in texts)


def _rounds(text: str) -> bool:
    return any(node.op == "round" for node in read_expr(text).walk())
