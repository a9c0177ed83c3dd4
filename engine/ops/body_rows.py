"""How rows travel through bodies (see `engine.ops.rows`): through one of two, or through one again
and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from engine.ops.rows import SIZES, RowContext, RowKind, RowState, mixed

MOST_PASSES = 8  # each state goes from SHARED to SIZES to MIXED at most, so few ever matter
KNOWN_KINDS = frozenset({RowKind.SHARED, RowKind.SIZES})


def body_rows(ctx: RowContext, attribute: str, given: Sequence[RowState]) -> tuple[RowState, ...]:
    """Return the states of a body's outputs from those of its inputs."""
    if ctx.follow_body is None:
        raise LookupError("its bodies cannot be followed here")
    return ctx.follow_body(attribute, given)


def joined_rows(
    ctx: RowContext, one: Sequence[RowState], other: Sequence[RowState]
) -> list[RowState]:
    """Return states that hold for values that are the one or the other."""
    return [_joined(ctx, a, b) for a, b in zip(one, other, strict=True)]


def _joined(ctx: RowContext, a: RowState, b: RowState) -> RowState:
    if a == b or a.kind is RowKind.MIXED:
        return a
    if b.kind is RowKind.MIXED:
        return b
    if {a.kind, b.kind} <= KNOWN_KINDS:
        return SIZES
    return mixed(
        f"node {ctx.node.label!r} ({ctx.node.op}): a value does not always have the items on the "
        "same axis"
    )


def carried_rows(
    ctx: RowContext,
    before: Sequence[RowState],
    states: Sequence[RowState],
    after: Sequence[RowState],
    skip: int = 0,
) -> tuple[list[RowState], tuple[RowState, ...]]:
    """Return states that hold in every pass, and those of the body's outputs.

    Outputs of the body, `skip` left out, are the states of the next pass.
    """
    given = list(states)
    for _ in range(MOST_PASSES):
        results = body_rows(ctx, "body", [*before, *given, *after])
        wider = joined_rows(ctx, given, results[skip : skip + len(given)])
        if wider == given:
            return given, results
        given = wider
    raise ValueError("its states do not settle")


def moved_rows(state: RowState, place: int) -> RowState:
    """Return the state of values that got a new axis at `place`."""
    is_behind = state.is_rows and state.axis >= place
    return replace(state, axis=state.axis + 1) if is_behind else state
