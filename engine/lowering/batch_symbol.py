"""Gives a model that was exported for one item a batch dimension: a leading 1 becomes a symbol.

Only a proposal: the result counts if every shape rule still holds and `batch_axes` proves the rows
independent.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.errors import EngineError
from engine.evaluation import evaluate_graph
from engine.ir.graph import Graph, Node, Value
from engine.ir.types import SymDim, TensorType, substitute, symbol, symbols_of
from engine.limits import Deadline, Limits
from engine.lowering.batch_spread import spread_joined
from engine.ops.registry import Registry
from engine.passes.rewriting import fresh_name, with_constants

MAX_ROUNDS = 8  # each spreads what the one before could not see
NAMES = ("N", "batch", "batch_size")


def propose_batched(
    graph: Graph, registry: Registry, limits: Limits, deadline: Deadline
) -> Iterator[Graph]:
    """Yield forms of the graph with a symbol as leading dim: separate symbols made one, then ones
    made symbols.
    """

    def typed(form: Graph) -> Graph:
        return evaluate_graph(form, registry, limits=limits, deadline=deadline).graph

    for inputs in _input_choices(graph):
        try:
            proposal = typed(_with_free_reshapes(graph).replace(inputs=inputs))
            for _ in range(MAX_ROUNDS):
                spread = spread_joined(proposal)
                if spread is proposal:
                    break
                proposal = typed(spread)
        except EngineError:
            continue
        if _same_for_one(graph, proposal):
            yield proposal


def _input_choices(graph: Graph) -> Iterator[tuple[Value, ...]]:
    batch = _free_symbol(graph)
    ones = [v.name for v in graph.inputs if v.type.shape and v.type.shape[0] == 1]
    leading = {v.type.shape[0] for v in graph.inputs if v.type.shape} - {1}
    symbols = [d for d in leading if isinstance(d, SymDim) and d.is_symbol]
    if len(symbols) > 1:
        same = {str(s): batch for s in symbols}
        yield tuple(Value(v.name, v.type.substitute(same)) for v in graph.inputs)
    if symbols:
        return
    if ones:
        yield _led_by(graph, ones, batch)
    if len(ones) > 1:
        for name in ones:
            yield _led_by(graph, [name], batch)


def _led_by(graph: Graph, names: list[str], batch: SymDim) -> tuple[Value, ...]:
    def led(value: Value) -> Value:
        shape = value.type.shape
        if value.name not in names or shape is None:
            return value
        return Value(value.name, TensorType(value.type.dtype, (batch, *shape[1:])))

    return tuple(map(led, graph.inputs))


def _free_symbol(graph: Graph) -> SymDim:
    taken = {s for kind in graph.types.values() for d in kind.shape or () for s in symbols_of(d)}
    return symbol(next((n for n in NAMES if n not in taken), "_".join([*sorted(taken), "N"])))


def _same_for_one(before: Graph, after: Graph) -> bool:
    """Whether the outputs have their old shapes when the symbols of the batch are one again."""
    batch = {str(v.type.shape[0]): 1 for v in after.inputs if v.type.shape}
    for old, new in zip(before.outputs, after.outputs, strict=True):
        if new.type.shape is None or not old.type.is_static:
            continue
        if tuple(substitute(d, batch) for d in new.type.shape) != old.type.shape:
            return False
    return True


def _with_free_reshapes(graph: Graph) -> Graph:
    """Let Reshapes to a fixed shape take their leading dim from what they are given; for one item
    nothing changes.
    """
    nodes: list[Node] = []
    for node in graph.nodes:
        target = _free_target(graph, node)
        if target is None:
            nodes.append(node)
            continue
        name = fresh_name(graph, f"{node.outputs[0]}/shape")
        graph = with_constants(graph, {name: np.array(target, np.int64)})
        nodes.append(node.replace(inputs=(node.inputs[0], name)))
    return graph.replace(nodes=tuple(nodes))


def _free_target(graph: Graph, node: Node) -> list[int] | None:
    """Return the target shape with its leading dim left open, when that means the same for one
    item.
    """
    if node.op != "Reshape" or node.domain or len(node.inputs) < 2:
        return None
    known = graph.constant(node.inputs[1])
    before, after = graph.types[node.inputs[0]].shape, graph.types[node.outputs[0]].shape
    if known is None or known.size == 0 or not before or not after:
        return None
    target: list[int] = known.reshape(-1).tolist()
    if target[0] in (0, -1):
        return None
    if target[0] == 1 and before[0] == 1 and not node.attributes.get("allowzero"):
        return [0, *target[1:]]
    rest = after[1:]
    if any(not isinstance(d, int) or d == 0 for d in rest):
        return None
    return [-1, *(int(d) for d in rest if isinstance(d, int))]
