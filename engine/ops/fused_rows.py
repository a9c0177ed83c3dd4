"""How rows travel through a fused node: the parts' own rules, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from engine.ir.types import TensorType
from engine.ops.rows import SHARED, RowContext, RowKind, RowState

Rule = Callable[[RowContext], Sequence[RowState]]


def staged(
    ctx: RowContext,
    rule: Rule,
    rows: Sequence[RowState | None],
    types: Sequence[TensorType | None],
    output: TensorType,
) -> RowState:
    """Return the state of what one part gives.

    Like a node of its own: what mixes stays mixed, what is shared stays shared, and the rule is
    asked about the rest, without known values, which are counted by the whole node's inputs.
    """
    present = [state for state in rows if state is not None]
    bad = next((state for state in present if state.kind is RowKind.MIXED), None)
    if bad is not None:
        return bad
    if all(state.kind is RowKind.SHARED for state in present):
        return SHARED
    part = replace(ctx, rows=rows, types=types, outputs=(output,), constants=(), values=())
    return rule(part)[0]
