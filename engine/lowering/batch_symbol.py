"""Gives a model that was exported for one item a batch dimension: a leading 1 becomes a symbol.

Only a proposal: it counts if `batch_axes` then proves the rows independent. For one item, nothing
that is changed here means anything else than before.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from engine.errors import EngineError
from engine.evaluation import evaluate_graph
from engine.ir.graph import Graph, Value
from engine.ir.types import SymDim, TensorType, substitute, symbol, symbols_of
from engine.limits import Deadline, Limits
from engine.lowering.batch_rewrites import BatchRewriter
from engine.ops.registry import Registry

NAMES = ("N", "batch", "batch_size")
# Their indices may have fewer rows than the data has.
FEWER = frozenset({"GatherElements", "ScatterElements", "Scatter"})


def propose_batched(
    graph: Graph, registry: Registry, limits: Limits, deadline: Deadline
) -> Iterator[Graph]:
    """Yield forms of the graph whose inputs lead with one symbol: symbols made one, or ones made
    symbols.
    """
    batch = _free_symbol(graph)
    for inputs in _input_choices(graph, batch):
        try:
            rewritten = BatchRewriter(graph, inputs, batch, registry, limits, deadline).rewrite()
            proposal = evaluate_graph(rewritten, registry, limits=limits, deadline=deadline).graph
        except EngineError:
            continue
        if _same_for_one(graph, proposal, batch):
            yield proposal


def _input_choices(graph: Graph, batch: SymDim) -> Iterator[tuple[Value, ...]]:
    ones = [v.name for v in graph.inputs if v.type.shape and v.type.shape[0] == 1]
    leading = {v.type.shape[0] for v in graph.inputs if v.type.shape} - {1}
    symbols = [d for d in leading if isinstance(d, SymDim) and d.is_symbol]
    # Without bodies, values that meet must have equal dims; branches may have different ones.
    has_bodies = any(True for node in graph.nodes for _ in node.bodies)
    if len(symbols) > 1 and not has_bodies and not _has_fewer_rows(graph, symbols):
        same = {str(s): batch for s in symbols}
        yield tuple(Value(v.name, v.type.substitute(same)) for v in graph.inputs)
    if symbols:
        return
    if ones:
        yield _led_by(graph, ones, batch)
    if len(ones) > 1:
        for name in ones:
            yield _led_by(graph, [name], batch)


def _has_fewer_rows(graph: Graph, symbols: Iterable[SymDim]) -> bool:
    """Whether an operator may get fewer rows of indices than of data, by names of their own."""
    named = frozenset(map(str, symbols))
    for node in graph.nodes:
        if node.op in FEWER and not node.domain:
            kinds = [graph.types.get(name) for name in node.inputs]
            shapes = [kind.shape for kind in kinds if isinstance(kind, TensorType)]
            met = frozenset().union(*(symbols_of(shape[0]) for shape in shapes if shape))
            if len(met & named) > 1:
                return True
    return False


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


def _same_for_one(before: Graph, after: Graph, batch: SymDim) -> bool:
    """Whether the outputs have their old shapes when the batch is one again."""
    one = {str(batch): 1}
    for old, new in zip(before.outputs, after.outputs, strict=True):
        if new.type.shape is None or not old.type.is_static:
            continue
        if tuple(substitute(d, one) for d in new.type.shape) != old.type.shape:
            return False
    return True
