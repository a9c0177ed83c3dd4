"""Proves which outputs depend, row by row, only on the same row of which inputs.

Every operator says how rows travel through it (`engine.ops.rows`); this file follows them from the
inputs whose leading dim is one symbol to the outputs. What cannot be proved is not batched, and the
verdict names the node.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from engine.errors import EngineError
from engine.evaluation import evaluate_graph
from engine.inference import Scope
from engine.ir.graph import Graph, Node
from engine.ir.types import SymDim, TensorType
from engine.ir.value_types import ValueType
from engine.limits import Deadline, Limits
from engine.ops.registry import Registry
from engine.ops.rows import SHARED, RowContext, RowKind, RowState, mixed, rows_on


@dataclass(frozen=True)
class BatchAxes:
    """Axis 0 of each named input and output counts independent items; other inputs must be equal
    within a batch.
    """

    inputs: frozenset[str]
    outputs: frozenset[str]


@dataclass(frozen=True)
class BatchVerdict:
    """What may be batched, or None and the reason, which names the node that prevents it."""

    axes: BatchAxes | None
    reason: str | None = None


def find_batch_axes(
    graph: Graph, registry: Registry, limits: Limits, deadline: Deadline
) -> BatchVerdict:
    """Return the first assignment of rows to inputs that is proved to reach the outputs."""
    candidates = list(_candidates(graph))
    if not candidates:
        return BatchVerdict(None, "no input has a leading dimension that may vary")
    scope = evaluate_graph(graph, registry, limits=limits, deadline=deadline).scope
    reasons: list[str] = []
    for batch in candidates:
        states = follow_rows(graph, registry, scope, batch)
        reason = _objection(graph, states)
        if reason is None:
            return BatchVerdict(_axes(graph, states))
        reasons.append(reason)
    return BatchVerdict(None, reasons[0])


def follow_rows(
    graph: Graph, registry: Registry, scope: Scope, batch: SymDim
) -> Mapping[str, RowState]:
    """Return every value's row state when inputs whose leading dim is `batch` carry items."""
    states: dict[str, RowState] = {}
    for value in graph.inputs:
        states[value.name] = input_state(value.name, value.type, batch)
    for name in (*graph.initializers, *graph.constants):
        states[name] = SHARED
    for node in graph.nodes:
        outputs = node_states(node, states, registry, scope, batch)
        states.update((n, s) for n, s in zip(node.outputs, outputs, strict=False) if n)
    return states


def input_state(name: str, kind: ValueType, batch: SymDim) -> RowState:
    """Return the row state of a graph input: items on axis 0, none at all, or out of place."""
    if not isinstance(kind, TensorType):
        return mixed(f"input {name!r} is {kind}, which has no axis of items")
    shape = kind.shape or ()
    if shape and shape[0] == batch and not any(_mentions(d, batch) for d in shape[1:]):
        return rows_on(0)
    if any(_mentions(d, batch) for d in shape):
        return mixed(f"input {name!r} has the number of items on an axis that is not the first")
    return SHARED


def node_states(
    node: Node,
    states: Mapping[str, RowState],
    registry: Registry,
    scope: Scope,
    batch: SymDim,
) -> tuple[RowState, ...]:
    """Return the row states of a node's outputs from those of what it reads."""
    inputs = [states[name] if name else None for name in node.inputs]
    everything = [*inputs, *(states[name] for name in node.captured)]
    bad = next((s for s in everything if s is not None and s.kind is RowKind.MIXED), None)
    if bad is not None:
        return (bad,) * len(node.outputs)
    operator = registry.find(node)
    if all(s is None or s.kind is RowKind.SHARED for s in everything):
        return (SHARED,) * len(node.outputs)
    types, outputs = _tensor_types(node.inputs, scope), _tensor_types(node.outputs, scope)
    if types is None or outputs is None:
        reason = f"node {node.label!r} ({node.op}): its sequences, optionals or maps hold items"
        return (mixed(reason),) * len(node.outputs)
    unnamed = TensorType(scope.types[_first(node)].dtype)
    ctx = RowContext(
        node=node,
        rows=inputs,
        types=types,
        outputs=[unnamed if kind is None else kind for kind in outputs],
        attributes=operator.complete(node),
        constants=[scope.constants.get(n) if n else None for n in node.inputs],
        values=[_flat_value(scope, n) for n in node.inputs],
        version=node.version,
        batch=batch,
        follow_body=lambda attribute, given: _follow_body(
            node, attribute, given, states, registry, scope, batch
        ),
    )
    try:
        found = tuple(operator.rows(ctx))
    except (
        EngineError,
        ArithmeticError,
        LookupError,
        TypeError,
        ValueError,
        AttributeError,
    ) as error:
        return ctx.mixed(f"its row rule does not cover this form ({type(error).__name__}: {error})")
    result = _checked(ctx, found)
    pairs = zip(node.outputs, result, strict=False)
    return tuple(SHARED if _is_known(scope, n, batch) else state for n, state in pairs)


def _follow_body(
    node: Node,
    attribute: str,
    given: Sequence[RowState],
    states: Mapping[str, RowState],
    registry: Registry,
    scope: Scope,
    batch: SymDim,
) -> tuple[RowState, ...]:
    """Return the row states of a body's outputs; a LookupError when too little is known of it."""
    body, inner = node.attributes[attribute], scope.body(node, attribute)
    if not isinstance(body, Graph) or inner is None:
        raise LookupError(f"nothing is known of body {attribute!r}")
    own = dict(zip(body.input_names, given, strict=True))
    own.update(dict.fromkeys((*body.initializers, *body.constants), SHARED))
    seen = ChainMap(own, dict(states))
    for each in body.nodes:
        found = node_states(each, seen, registry, inner, batch)
        own.update((n, s) for n, s in zip(each.outputs, found, strict=False) if n)
    return tuple(seen[name] for name in body.output_names)


def _tensor_types(names: Sequence[str], scope: Scope) -> list[TensorType | None] | None:
    """Return the names' types, or None when one is no tensor's."""
    found: list[TensorType | None] = []
    for name in names:
        kind = scope.types[name] if name else None
        if kind is not None and not isinstance(kind, TensorType):
            return None
        found.append(kind)
    return found


def _is_known(scope: Scope, name: str, batch: SymDim) -> bool:
    """Whether the value is known already, and the same for any number of items."""
    if name in scope.constants:
        return True
    known = scope.symbolic.get(name)
    return known is not None and not any(_mentions(dim, batch) for dim in known.flat)


def _checked(ctx: RowContext, states: tuple[RowState, ...]) -> tuple[RowState, ...]:
    """Hold a rule to the shapes: rows lie on an axis that has `block` entries per item."""
    result = []
    for name, state, kind in zip(ctx.node.outputs, states, ctx.outputs, strict=False):
        if name and state.is_rows and ctx.batch is not None:
            shape = kind.shape
            fits = shape is not None and state.axis < len(shape)
            if not (
                fits
                and shape is not None
                and shape[state.axis] == ctx.batch * state.block * state.outer
            ):
                return ctx.mixed(f"its output {kind} does not have the items on axis {state.axis}")
        result.append(state)
    return tuple(result)


def _objection(graph: Graph, states: Mapping[str, RowState]) -> str | None:
    """Return why the outputs cannot be taken apart by rows, or None when they can."""
    for value in graph.outputs:
        state = states[value.name]
        if state.kind is RowKind.MIXED:
            return state.reason
        if state.kind is RowKind.SIZES:
            return f"output {value.name!r} depends on the number of items"
        if state.is_rows and (state.axis, state.block, state.outer) != (0, 1, 1):
            return f"output {value.name!r} ({value.type}) does not have one row per item on axis 0"
    if not any(states[v.name].is_rows for v in graph.outputs):
        return "no output depends on an input with a leading dimension that may vary"
    return None


def _axes(graph: Graph, states: Mapping[str, RowState]) -> BatchAxes:
    return BatchAxes(
        inputs=frozenset(v.name for v in graph.inputs if states[v.name].is_rows),
        outputs=frozenset(v.name for v in graph.outputs if states[v.name].is_rows),
    )


def _candidates(graph: Graph) -> Iterator[SymDim]:
    """Yield the symbols that lead an input, those of most inputs first."""
    found: dict[SymDim, int] = {}
    for value in graph.inputs:
        if (
            value.type.shape
            and isinstance(value.type.shape[0], SymDim)
            and value.type.shape[0].is_symbol
        ):
            found[value.type.shape[0]] = found.get(value.type.shape[0], 0) + 1
    yield from sorted(found, key=lambda s: -found[s])


def _flat_value(scope: Scope, name: str) -> tuple[int | SymDim, ...] | None:
    known = scope.symbolic.get(name) if name else None
    return None if known is None else tuple(known.reshape(-1).tolist())


def _mentions(dim: int | SymDim, batch: SymDim) -> bool:
    return isinstance(dim, SymDim) and not dim.symbols.isdisjoint(batch.symbols)


def _first(node: Node) -> str:
    return next(filter(None, node.outputs))
