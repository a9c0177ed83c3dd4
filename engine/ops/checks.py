"""Checks of element types that type rules share: what ONNX's text allows, in one line each."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from engine.dtypes import DType
from engine.ops.contexts import InferContext

INDICES = frozenset({DType.INT32, DType.INT64})


def check_dtype(ctx: InferContext, inputs: int | Iterable[int], allowed: Collection[DType]) -> None:
    """Refuse present inputs whose element type is none of `allowed`."""
    for i in (inputs,) if isinstance(inputs, int) else inputs:
        if ctx.has(i) and ctx.dtype(i) not in allowed:
            expected = ", ".join(sorted(map(str, allowed)))
            ctx.fail(f"input {i} is {ctx.type(i)}; expected elements of type {expected}")
