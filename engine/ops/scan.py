"""Scan: a body that walks along an axis of its inputs, carries states, and stacks what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from engine.ir.graph import Array, Graph
from engine.ir.types import Dim, TensorType
from engine.ir.value_types import ValueType
from engine.ops.bodies import Collector, body_of, bound_symbols, carried_types, too_many
from engine.ops.body_rows import body_rows, carried_rows, moved_rows
from engine.ops.common import check_size, normalize_axis
from engine.ops.contexts import ComputeContext, InferContext
from engine.ops.registry import REQUIRED, operator
from engine.ops.rows import SHARED, RowContext, RowState, rows_on

BACKWARD = 1  # in the lists of directions


@dataclass(frozen=True)
class Plan:
    """How a Scan node splits its inputs and outputs; lists are complete, axes are not negative."""

    states: int
    scanned: int
    input_axes: tuple[int, ...]
    input_backward: tuple[bool, ...]
    output_axes: tuple[int, ...]  # may be negative: ranks of outputs are known when they come
    output_backward: tuple[bool, ...]


@operator("Scan", since=(9, 11, 16, 19, 21, 23, 24, 25))
class Scan:
    """The body takes the states and one slice of each scanned input; it gives the next states, and
    values that are stacked.
    """

    attributes = {
        "body": REQUIRED,
        "num_scan_inputs": REQUIRED,
        "scan_input_axes": (),
        "scan_input_directions": (),
        "scan_output_axes": (),
        "scan_output_directions": (),
    }

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """States as they are in any pass; stacked values get the scanned dim at their axis."""
        body = body_of(ctx, "body")
        kinds = [ctx.type(i) for i in range(len(ctx.types))]
        plan = make_plan(ctx, body, len(kinds))
        scanned = list(zip(kinds[plan.states :], plan.input_axes, strict=True))
        slices = [_without(ctx, kind, axis) for kind, axis in scanned]
        return scan_types(ctx, body, plan, kinds[: plan.states], slices, _length(ctx, scanned))

    @staticmethod
    def compute(ctx: ComputeContext, *values: Array) -> Sequence[Array]:
        """Pass after pass."""
        body = ctx.attributes["body"]
        plan = make_plan(ctx, body, len(values))
        return run_scan(ctx, body, plan, values[: plan.states], values[plan.states :], None)

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Items stay apart when every pass keeps them apart, and it does not walk along them."""
        ranks = [ctx.rank(i) for i in range(len(ctx.rows))]
        if any(rank is None for rank in ranks):
            return ctx.mixed("a rank is unknown")
        plan = make_plan(ctx, ctx.attributes["body"], len(ctx.rows))
        given = [SHARED if state is None else state for state in ctx.rows]
        slices = []
        for state, rank, axis in zip(
            given[plan.states :], ranks[plan.states :], plan.input_axes, strict=True
        ):
            place = normalize_axis(axis, rank or 0)
            if state.is_rows and state.axis == place:
                return ctx.mixed("it walks along the items")
            is_behind = state.is_rows and state.axis > place
            slices.append(replace(state, axis=state.axis - 1) if is_behind else state)
        states, results = carried_rows(ctx, [], given[: plan.states], slices)
        stacked = zip(results[plan.states :], plan.output_axes, strict=True)
        named = len(ctx.outputs)
        places = [
            moved_rows(state, normalize_axis(axis, ctx.outputs[k].rank or 0))
            for k, (state, axis) in enumerate(stacked, start=plan.states)
            if k < named
        ]
        return [*states, *places]


@operator("Scan", since=8, until=9)
class Scan8:
    """The first form: a leading batch axis, whose items are scanned one after the other, each as
    far as `sequence_lens` says. What lies behind is zero.
    """

    attributes = {"body": REQUIRED, "num_scan_inputs": REQUIRED, "directions": ()}

    @staticmethod
    def infer(ctx: InferContext) -> Sequence[ValueType]:
        """The batch dim leads every input and output."""
        body = body_of(ctx, "body")
        kinds = [ctx.type(i) for i in range(1, len(ctx.types))]
        plan = make_plan(ctx, body, len(kinds))
        known = [kind.shape[0] for kind in kinds if kind.shape]
        batch: Dim = known[0] if known else ctx.fresh_dim("batch")
        items = [_without(ctx, kind, 0) for kind in kinds]
        scanned = [(kind, 0) for kind in items[plan.states :]]
        slices = [_without(ctx, kind, 0) for kind, _ in scanned]
        length = _length(ctx, scanned)
        found = scan_types(ctx, body, plan, items[: plan.states], slices, length)
        return [
            kind.with_shape(None if kind.shape is None else (batch, *kind.shape))
            for kind in found
            if isinstance(kind, TensorType)
        ]

    @staticmethod
    def compute(ctx: ComputeContext, lengths: Array | None, *values: Array) -> Sequence[Array]:
        """Item after item."""
        body, xp = ctx.attributes["body"], ctx.xp
        plan = make_plan(ctx, body, len(values))
        items, longest = values[0].shape[0], values[plan.states].shape[1]
        ends = [longest] * items if lengths is None else [int(n) for n in lengths.reshape(-1)]
        if len(ends) != items or not all(0 <= end <= longest for end in ends):
            raise ValueError(f"sequence lengths {ends} for {items} items of length {longest}")
        found = []
        for k, end in enumerate(ends):
            own = [value[k] for value in values]
            found.append(
                run_scan(ctx, body, plan, own[: plan.states], own[plan.states :], end, longest)
            )
        if not found:
            raise ValueError("a Scan of opset 8 needs at least one item")
        return [xp.stack(parts) for parts in zip(*found, strict=True)]

    @staticmethod
    def rows(ctx: RowContext) -> Sequence[RowState]:
        """Each item is scanned by itself, whatever the body does."""
        body = ctx.attributes["body"]
        inside = body_rows(ctx, "body", [SHARED] * len(body.inputs))
        present = [state for state in ctx.rows if state is not None]
        if any(state != SHARED for state in inside) or any(s != rows_on(0) for s in present):
            return ctx.mixed("not all that it reads is one entry per item")
        return ctx.all_outputs(rows_on(0))


def make_plan(ctx: InferContext | ComputeContext | RowContext, body: Graph, given: int) -> Plan:
    """Read the attributes; what does not fit the body is an error."""
    attributes = ctx.attributes
    scanned = int(attributes["num_scan_inputs"])
    states = given - scanned
    stacked = len(body.outputs) - states
    named = len(ctx.node.outputs)
    fits = scanned >= 1 and states >= 0 and stacked >= 0 and len(body.inputs) == given
    if not fits or named > len(body.outputs):
        _fail(
            ctx,
            f"{given} inputs ({scanned} scanned) and {named} outputs for a body of "
            f"{len(body.inputs)} inputs and {len(body.outputs)} outputs",
        )
    directions = attributes.get("directions") or attributes.get("scan_input_directions")
    ends = attributes.get("scan_output_directions")
    return Plan(
        states,
        scanned,
        _complete(ctx, attributes.get("scan_input_axes"), scanned),
        tuple(d == BACKWARD for d in _complete(ctx, directions, scanned)),
        _complete(ctx, attributes.get("scan_output_axes"), stacked),
        tuple(d == BACKWARD for d in _complete(ctx, ends, stacked)),
    )


def scan_types(
    ctx: InferContext,
    body: Graph,
    plan: Plan,
    states: Sequence[ValueType],
    slices: Sequence[ValueType],
    length: Dim,
) -> list[ValueType]:
    """Return the types of states and stacked outputs."""
    found = carried_types(ctx, body, [], states, slices)
    results: list[ValueType] = found.outside(found.states)
    stacked = found.outside(found.facts.types[plan.states :])
    for kind, axis in zip(stacked, plan.output_axes, strict=True):
        if not isinstance(kind, TensorType):
            ctx.fail(f"it stacks values of type {kind}, expected tensors")
        results.append(_with(ctx, kind, axis, length))
    return results


def run_scan(
    ctx: ComputeContext,
    body: Graph,
    plan: Plan,
    states: Sequence[Array],
    scanned: Sequence[Array],
    end: int | None,
    padded: int = 0,
) -> list[Array]:
    """Walk along the scanned inputs, as far as `end`; stacked values are zero up to `padded`."""
    assert ctx.bodies is not None and ctx.check_cancel is not None
    axes = [normalize_axis(a, x.ndim) for a, x in zip(plan.input_axes, scanned, strict=True)]
    lengths = {x.shape[axis] for x, axis in zip(scanned, axes, strict=True)}
    if len(lengths) != 1:
        raise ValueError(f"scanned inputs have different lengths: {sorted(lengths)}")
    length = lengths.pop() if end is None else end
    if length > ctx.limits.loop_iterations:
        raise too_many(ctx, length)
    collectors = [Collector(ctx, value) for value in body.outputs[plan.states :]]
    bindings = bound_symbols(body.inputs[: plan.states], states)
    current = list(states)
    for step in range(length):
        ctx.check_cancel()
        slices = [
            _slice(x, axis, length - 1 - step if backward else step)
            for x, axis, backward in zip(scanned, axes, plan.input_backward, strict=True)
        ]
        results = ctx.bodies["body"]([*current, *slices])
        current = list(results[: plan.states])
        for collector, part in zip(collectors, results[plan.states :], strict=True):
            collector.add(part)
    stacked = [
        collector.stacked(bindings, axis, backwards=backward)
        for collector, axis, backward in zip(
            collectors, plan.output_axes, plan.output_backward, strict=True
        )
    ]
    return [*current, *(_padded(ctx, x, padded) for x in stacked)]


def _slice(x: Array, axis: int, i: int) -> Array:
    index = (*(slice(None),) * axis, i, ...)  # the dots make it an array even without dims
    return x[index]


def _padded(ctx: ComputeContext, x: Array, length: int) -> Array:
    """Fill up with zeros along axis 0."""
    if x.shape[0] >= length:
        return x
    check_size(ctx, (length, *x.shape[1:]), x.dtype)
    xp = np if isinstance(x, np.ndarray) else ctx.xp
    rest = xp.zeros((length - x.shape[0], *x.shape[1:]), x.dtype)
    return xp.concatenate([x, rest])


def _complete(
    ctx: InferContext | ComputeContext | RowContext, stated: Sequence[int] | None, count: int
) -> tuple[int, ...]:
    if stated and len(stated) != count:
        _fail(ctx, f"a list of {len(stated)} axes or directions for {count} values")
    return tuple(stated) if stated else (0,) * count


def _fail(ctx: InferContext | ComputeContext | RowContext, why: str) -> None:
    if isinstance(ctx, InferContext):
        ctx.fail(why)
    raise ValueError(why)


def _length(ctx: InferContext, scanned: Sequence[tuple[TensorType, int]]) -> Dim:
    """The common length of what is scanned: a number if one is known."""
    dims = [kind.shape[axis] for kind, axis in scanned if kind.shape is not None]
    numbers = {dim for dim in dims if isinstance(dim, int)}
    if len(numbers) > 1:
        ctx.fail(f"scanned inputs have different lengths: {sorted(numbers)}")
    return next(iter(numbers), dims[0] if dims else ctx.fresh_dim("length"))


def _without(ctx: InferContext, kind: TensorType, axis: int) -> TensorType:
    if kind.shape is None:
        return kind
    place = ctx.normal_axis(axis, len(kind.shape))
    return kind.with_shape((*kind.shape[:place], *kind.shape[place + 1 :]))


def _with(ctx: InferContext, kind: TensorType, axis: int, length: Dim) -> TensorType:
    if kind.shape is None:
        return kind
    place = ctx.normal_axis(axis, len(kind.shape) + 1)
    return kind.with_shape((*kind.shape[:place], length, *kind.shape[place:]))
