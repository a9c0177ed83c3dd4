"""Control flow: If and Loop. Their bodies are graphs that run like the one around them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.dtypes import DType
from engine.ir.graph import Array, Graph
from engine.ir.types import Dim, SymDim, TensorType, dim_max
from engine.ir.value_types import ValueType
from engine.ops.bodies import (
    Carried,
    Collector,
    as_flag,
    body_of,
    bound_symbols,
    carried_types,
    infer_body,
    joined,
    too_many,
)
from engine.ops.body_rows import body_rows, carried_rows, joined_rows, moved_rows
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import REQUIRED, operator
from engine.ops.rows import SHARED, RowContext, RowState

VERSIONS = (1, 11, 13, 16, 19, 21, 23, 24, 25)


@operator("If", since=VERSIONS)
class If:
    """One of two bodies."""

    attributes = {"then_branch": REQUIRED, "else_branch": REQUIRED}
    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """What both branches have in common."""
        check_flag(ctx, 0)
        then, other = (
            infer_body(ctx, body_of(ctx, name), []).types for name in ("then_branch", "else_branch")
        )
        if not len(then) == len(other) == ctx.n_outputs:
            ctx.fail(f"{ctx.n_outputs} outputs, its branches give {len(then)} and {len(other)}")
        return [joined(ctx, a, b) for a, b in zip(then, other, strict=True)]

    @staticmethod
    def compute(ctx: ComputeContext, condition: Array) -> Sequence[Array]:
        """Run the branch."""
        assert ctx.bodies is not None
        return ctx.bodies["then_branch" if as_flag(condition) else "else_branch"]([])

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items lie where both branches have them, when all take the same branch."""
        if ctx.rows[0] != SHARED:
            return ctx.mixed("its condition depends on the items")
        then, other = (body_rows(ctx, name, []) for name in ("then_branch", "else_branch"))
        return joined_rows(ctx, then, other)


@operator("Loop", since=VERSIONS)
class Loop:
    """A body that runs a number of times, or as long as a condition holds, or both.

    The body takes the number of the pass, the condition and the states; it gives the next
    condition, the next states, and values that are stacked over all passes.
    """

    attributes = {"body": REQUIRED}
    tensors_only = False

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """States as they are in any pass; stacked values get one dim more, the number of passes."""
        body, count = body_of(ctx, "body"), len(ctx.types) - 2
        Loop.check(ctx, body, count)
        states = [ctx.value_type(i + 2) for i in range(count)]
        before = [_scalar_like(body, 0, DType.INT64), _scalar_like(body, 1, DType.BOOL)]
        # In every pass that runs, the condition holds.
        fixed = [None, np.ones(_ones(before[1]), bool)]
        found = carried_types(ctx, body, before, states, [], fixed, skip=1)
        trips = Loop.trips(ctx, found)
        stacked = found.outside(found.facts.types[1 + count :])
        return [*found.outside(found.states), *(_stacked(ctx, kind, trips) for kind in stacked)]

    @staticmethod
    def check(ctx: InferContext, body: Graph, count: int) -> None:
        """Refuse what cannot run, whatever the types are."""
        if ctx.has(0) and ctx.dtype(0) is not DType.INT64:
            ctx.fail(f"its trip count is {ctx.type(0)}, expected int64")
        if ctx.has(1):
            check_flag(ctx, 1)
        if len(body.inputs) != count + 2:
            ctx.fail(f"its body has {len(body.inputs)} inputs, expected {count + 2}")
        if not count < len(body.outputs) or ctx.n_outputs > len(body.outputs) - 1:
            ctx.fail(
                f"its body has {len(body.outputs)} outputs for {count} states and "
                f"{ctx.n_outputs} outputs"
            )

    @staticmethod
    def trips(ctx: InferContext, found: Carried) -> Dim:
        """How many passes there are, where nothing but the trip count can end the loop."""
        goes_on, first = found.facts.constants[0], ctx.constant(1)
        begins = not ctx.has(1) or (first is not None and first.size == 1 and bool(first.all()))
        known = ctx.value(0) if ctx.has(0) else None
        if begins and goes_on is not None and bool(goes_on.all()) and known and len(known) == 1:
            (trips,) = known
            return trips if isinstance(trips, SymDim) and trips.is_symbol else dim_max(trips, 0)
        return ctx.fresh_dim("trips")

    @staticmethod
    def compute(
        ctx: ComputeContext, trips: Array | None, condition: Array | None, *states: Any
    ) -> Sequence[Any]:
        """Pass after pass; every number of passes is bounded by `Limits.loop_iterations`."""
        assert ctx.bodies is not None and ctx.check_cancel is not None
        run, body = ctx.bodies["body"], ctx.attributes["body"]
        limit, count = ctx.limits.loop_iterations, len(states)
        bindings = bound_symbols(body.inputs[2:], states)
        most = None if trips is None else int(trips.reshape(-1)[0])
        goes_on = condition is None or as_flag(condition)
        if goes_on and (most is None or most > limit) and _never_stops(body):
            raise too_many(ctx, "endless" if most is None else most)
        collectors = [Collector(ctx, value) for value in body.outputs[1 + count :]]
        flag = ctx.xp.ones(_ones(body.inputs[1].type), bool)
        done = 0
        while goes_on and (most is None or done < most):
            if done >= limit:
                raise too_many(ctx, f"more than {limit}")
            ctx.check_cancel()
            number = ctx.xp.full(_ones(body.inputs[0].type), done, np.int64)
            following, *results = run([number, flag, *states])
            states = tuple(results[:count])
            for collector, part in zip(collectors, results[count:], strict=True):
                collector.add(part)
            goes_on = as_flag(following)
            done += 1
        return [*states, *(collector.stacked(bindings) for collector in collectors)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items stay apart when every pass keeps them apart and their number of passes is one."""
        if any(state not in (None, SHARED) for state in ctx.rows[:2]):
            return ctx.mixed("how often it runs depends on the items")
        states = [SHARED if state is None else state for state in ctx.rows[2:]]
        states, results = carried_rows(ctx, [SHARED, SHARED], states, [], skip=1)
        if results[0] != SHARED:
            return ctx.mixed("its condition depends on the items")
        return [*states, *(moved_rows(state, 0) for state in results[1 + len(states) :])]


def check_flag(ctx: InferContext, i: int) -> None:
    """Refuse a condition that is no bool, or has surely more than one element."""
    kind = ctx.type(i)
    sizes = kind.shape or ()
    if kind.dtype is not DType.BOOL or any(isinstance(d, int) and d != 1 for d in sizes):
        ctx.fail(f"its condition is {kind}, expected one bool")


def _scalar_like(body: Graph, i: int, dtype: DType) -> TensorType:
    """The type of a body's counter or condition: a scalar, or one element where the body says so.

    ONNX Runtime looks at the declared rank in the same way.
    """
    return TensorType(dtype, _ones(body.inputs[i].type))


def _ones(declared: ValueType) -> tuple[int, ...]:
    return (1,) if declared.rank == 1 else ()


def _stacked(ctx: InferContext, kind: ValueType, trips: Dim) -> TensorType:
    if not isinstance(kind, TensorType):
        ctx.fail(f"it stacks values of type {kind}, expected tensors")
    return kind.with_shape(None if kind.shape is None else (trips, *kind.shape))


def _never_stops(body: Graph) -> bool:
    """Whether the body's condition is the one it got, or fixed and true."""
    name = body.outputs[0].name
    while (node := body.producers.get(name)) is not None and node.op == "Identity":
        name = node.inputs[0]
    fixed = body.constant(name)
    return name == body.inputs[1].name or (fixed is not None and bool(fixed.all()))
