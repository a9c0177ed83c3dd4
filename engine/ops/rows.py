"""How rows travel through an operator: the facts from which batching is proved.

A batch stacks items along axis 0 of some graph inputs. For every value one of four states holds:

    SHARED      the same for any batch: does not depend on the batched inputs at all
    SIZES       depends on how many items there are, not on what is in them (`Shape`)
    ROWS        its `axis` has `block` entries per item, items in order, and the entries of an
                item depend on that item only
    MIXED       anything else: what one item gets may depend on another

An operator's `rows` maps the states of its inputs to the states of its outputs. It is asked only
when some input is not SHARED and none is MIXED. Saying MIXED is always sound; saying ROWS must be
right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from engine.ir.graph import Array, Node
from engine.ir.types import Dim, TensorType


class RowKind(Enum):
    """Which of the four states."""

    SHARED = "shared"
    SIZES = "sizes"
    ROWS = "rows"
    MIXED = "mixed"


@dataclass(frozen=True, slots=True)
class RowState:
    """The state of one value. Make it with `SHARED`, `SIZES`, `rows_on` and `mixed`."""

    kind: RowKind
    axis: int = 0
    block: Dim = 1
    reason: str = ""
    outer: Dim = 1

    @property
    def is_rows(self) -> bool:
        """Whether items lie along `axis`."""
        return self.kind is RowKind.ROWS


SHARED = RowState(RowKind.SHARED)
SIZES = RowState(RowKind.SIZES)


def rows_on(axis: int = 0, block: Dim = 1, outer: Dim = 1) -> RowState:
    """Items lie along `axis` (not negative), `block` entries each, all of it `outer` times over.

    `outer` comes from merging axes, `[L, N, C] -> [L*N, C]`: entry `l * N + i` is item `i`'s. A
    rule that forgets `outer` claims an axis of another size, which the proof refuses.
    """
    return RowState(RowKind.ROWS, axis, block, outer=outer)


def mixed(reason: str) -> RowState:
    """What one item gets may depend on another; `reason` is for people."""
    return RowState(RowKind.MIXED, reason=reason)


@dataclass(frozen=True)
class RowContext:
    """What an operator's `rows` may look at.

    Attributes:
        node: The node.
        rows: The state of every input; None when the input is absent.
        types: The type of every input; None when absent.
        outputs: The type of every output.
        attributes: Stated attributes over defaults.
        constants: Fixed values of inputs; None where the value is not fixed or the input is absent.
        values: Known int64 values of inputs as flat tuples of dims; None where not known.
        version: The opset that the model declares.
        batch: The symbol that counts the items, where the caller knows it.
        follow_body: States of the outputs of the body that an attribute holds, from those of its
            inputs; what the body captures has the states that it has around the node.
    """

    node: Node
    rows: Sequence[RowState | None]
    types: Sequence[TensorType | None]
    outputs: Sequence[TensorType]
    attributes: Mapping[str, Any]
    constants: Sequence[Array | None] = ()
    values: Sequence[tuple[Dim, ...] | None] = ()
    version: int = 1
    batch: Dim | None = None
    follow_body: Callable[[str, Sequence[RowState]], tuple[RowState, ...]] | None = None

    def rank(self, i: int) -> int | None:
        """Rank of input `i`, or None when absent or unknown."""
        kind = self.types[i] if i < len(self.types) else None
        return None if kind is None else kind.rank

    def mixed(self, why: str) -> tuple[RowState, ...]:
        """Return MIXED for every output, naming the node."""
        state = mixed(f"node {self.node.label!r} ({self.node.op}): {why}")
        return (state,) * len(self.node.outputs)

    def all_outputs(self, state: RowState) -> tuple[RowState, ...]:
        """Return the same state for every output."""
        return (state,) * len(self.node.outputs)

    def only(self, *data: int) -> bool:
        """Whether no input but those numbered in `data` is ROWS or SIZES."""
        return all(
            state is None or state.kind is RowKind.SHARED
            for i, state in enumerate(self.rows)
            if i not in data
        )


def depends_on_everything(ctx: RowContext) -> tuple[RowState, ...]:
    """The rule of an operator that states none."""
    return ctx.mixed("no rule says that its rows are independent")


def broadcasting(ctx: RowContext) -> tuple[RowState, ...]:
    """The rule of elementwise operators: rows stay rows if all inputs agree on where they lie."""
    kinds = {state.kind for state in ctx.rows if state is not None}
    if RowKind.ROWS not in kinds:
        return ctx.all_outputs(SIZES)
    if RowKind.SIZES in kinds:
        return ctx.mixed("values are computed from the number of items")
    rank = ctx.outputs[0].rank
    if rank is None or any(t is not None and t.rank is None for t in ctx.types):
        return ctx.mixed("a rank is unknown")
    places = {_from_right(ctx, i): state for i, state in enumerate(ctx.rows) if _is_rows(state)}
    if len(places) > 1:
        return ctx.mixed("its inputs carry the items on different axes")
    ((place, state),) = places.items()
    assert state is not None
    blocks = {(s.block, s.outer) for s in ctx.rows if s is not None and s.is_rows}
    for i, other in enumerate(ctx.rows):
        if other is not None and not other.is_rows and _dim_from_right(ctx, i, place) != 1:
            return ctx.mixed(f"input {i} has a size of its own on the axis of the items")
    if len(blocks) > 1:
        return ctx.mixed("its inputs carry different numbers of entries per item")
    return ctx.all_outputs(rows_on(rank - place, state.block, state.outer))


def _is_rows(state: RowState | None) -> bool:
    return state is not None and state.is_rows


def _from_right(ctx: RowContext, i: int) -> int:
    state, rank = ctx.rows[i], ctx.rank(i)
    assert state is not None and rank is not None
    return rank - state.axis


def _dim_from_right(ctx: RowContext, i: int, place: int) -> Dim:
    kind = ctx.types[i]
    assert kind is not None and kind.shape is not None
    return kind.shape[-place] if place <= len(kind.shape) else 1
