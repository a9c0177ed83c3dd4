"""Composes the expressions of elementwise nodes into one, from the operators' own definitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from engine.dtypes import DType
from engine.ir.expr import LEAVES, Expr, argument, cast, constant
from engine.ir.expr_text import merge_equal
from engine.ir.graph import Graph, Node
from engine.ir.types import TensorType
from engine.ops.define import NUMPY_BROADCASTING, Elementwise
from engine.ops.fused import FUSED_TYPES
from engine.passes.context import PassContext
from engine.passes.rewriting import fixed, shape_of, tensor_type

MAX_NODES = 64  # of one fused chain
MAX_STEPS = 512  # of one expression
# A fixed exponent decides which code there is (a square is a product); other fixed numbers may be
# weights, and stay inputs so that retraining changes no code.
WRITTEN_IN = {"Pow": (1,)}


@dataclass
class Composition:
    """An expression under construction.

    Attributes:
        names: The values that it reads from outside, in the order of its arguments.
        values: What every name seen so far is, in the type in which it computes.
    """

    names: list[str] = field(default_factory=list)
    values: dict[str, Expr] = field(default_factory=dict)


def is_elementwise(graph: Graph, node: Node, ctx: PassContext) -> bool:
    """Whether the node can be part of an expression."""
    if len(node.outputs) != 1 or not node.inputs:
        return False
    kinds = [tensor_type(graph, name) for name in (*filter(None, node.inputs), node.outputs[0])]
    if any(k is None or k.dtype not in FUSED_TYPES or k.shape is None for k in kinds):
        return False
    if node.op in ("Cast", "CastLike") and not node.domain:
        return True
    definition = ctx.registry.find(node).definition
    return isinstance(definition, Elementwise) and (
        bool(node.domain) or node.version >= NUMPY_BROADCASTING
    )


def compose(
    graph: Graph, nodes: Sequence[Node], ctx: PassContext, head: str | None = None
) -> tuple[Expr, list[str]] | None:
    """Return the expression of the last of `nodes` and the names that it reads, in order.

    `head` becomes argument 0; it is not among the names. Between nodes nothing is rounded to a
    narrow type, but where a Cast says so; the end is. None when the expression grows too large.
    """
    state = Composition()
    if head is not None:
        state.names.append(head)
        state.values[head] = argument(0, _dtype(graph, head).compute)
    for node in nodes:
        state.values[node.outputs[0]] = _value(graph, node, ctx, state)
    last = nodes[-1].outputs[0]
    expr = merge_equal(cast(state.values[last], _dtype(graph, last)))
    if sum(n.op not in LEAVES for n in expr.walk()) > MAX_STEPS:
        return None
    return expr, state.names[0 if head is None else 1 :]


def _value(graph: Graph, node: Node, ctx: PassContext, state: Composition) -> Expr:
    result = _dtype(graph, node.outputs[0])
    if node.op in ("Cast", "CastLike") and not node.domain:
        return cast(cast(_input(graph, node.inputs[0], state), result), result.compute)
    operator = ctx.registry.find(node)
    definition: Elementwise = operator.definition
    attributes = operator.complete(node)
    args: list[Expr | None] = []
    for i, name in enumerate(node.inputs):
        number = _written_in(graph, node, i)
        if not name:
            args.append(None)
        elif number is not None:
            args.append(constant(number, _dtype(graph, name).compute))
        else:
            args.append(_input(graph, name, state))
    body = definition.function(*args, **{name: attributes[name] for name in definition.options})
    if body.op == "cast" and body.dtype is result and body.args[0].dtype is result.compute:
        return body.args[0]  # a chain that was fused before: its rounding was its end
    return cast(body if body.dtype is result.compute else cast(body, result), result.compute)


def _input(graph: Graph, name: str, state: Composition) -> Expr:
    found = state.values.get(name)
    if found is None:
        found = state.values[name] = argument(len(state.names), _dtype(graph, name).compute)
        state.names.append(name)
    return found


def _written_in(graph: Graph, node: Node, i: int) -> float | int | bool | None:
    if node.domain or i not in WRITTEN_IN.get(node.op, ()):
        return None
    value = fixed(graph, node.inputs[i])
    shape = shape_of(graph, node.inputs[0])
    if value is None or value.size != 1 or shape is None or value.ndim > len(shape):
        return None
    number: float | int | bool = value.reshape(()).tolist()
    return number


def _dtype(graph: Graph, name: str) -> DType:
    kind = graph.types[name]
    assert isinstance(kind, TensorType)
    return kind.dtype


def grow(
    graph: Graph,
    root: Node,
    ctx: PassContext,
    allowed: Callable[[Node], bool] = lambda node: True,
) -> list[Node]:
    """Return `root` and the elementwise nodes of its shape that lead to nothing but it, in order.

    What only feeds the chain in a smaller shape stays outside: computed once there, not once for
    every element.
    """
    shape = shape_of(graph, root.outputs[0])
    members: dict[int, Node] = {id(root): root}
    pending = [root]
    while pending and len(members) < MAX_NODES:
        for name in pending.pop(0).inputs:
            node = graph.producers.get(name)
            if node is None or id(node) in members or name in graph.output_set:
                continue
            if not allowed(node) or not is_elementwise(graph, node, ctx):
                continue
            readers = graph.consumers.get(name, ())
            if all(id(r) in members for r in readers) and shape_of(graph, name) == shape:
                members[id(node)] = node
                pending.append(node)
    return in_order(graph, members)


def in_order(graph: Graph, members: Mapping[int, Node]) -> list[Node]:
    """Return nodes, told by `id`, each after those that it reads."""
    done: dict[int, Node] = {}
    stack = [(node, False) for node in members.values()]
    while stack:
        node, ready = stack.pop()
        if ready:
            done[id(node)] = node
        elif id(node) not in done:
            stack.append((node, True))
            before = (graph.producers.get(name) for name in node.inputs)
            stack += [(n, False) for n in before if n is not None and id(n) in members]
    return list(done.values())
