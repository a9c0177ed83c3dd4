"""Identity elimination: nodes whose output is one of their inputs, whatever the values are.

Left alone: x + 0.0, which makes 0 of -0, and x * 0, which is NaN for some x.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from engine.ir.graph import Graph, Node
from engine.ir.types import Shape
from engine.passes.context import PassContext
from engine.passes.rewriting import fixed, redirect
from engine.renaming import rename_node


def eliminate_identity(graph: Graph, ctx: PassContext) -> Graph:
    """Let readers of a no-op's output read its input; outputs and inputs of the graph keep their
    names.
    """
    names: dict[str, str] = {}
    removed: set[int] = set()
    for node in ctx.each(graph.nodes):
        source = _source(graph, node, ctx)
        if source is not None and node.outputs[0] not in graph.output_set:
            names[node.outputs[0]] = source
            removed.add(id(node))
    return _rename_producers(redirect(graph, names, removed) if removed else graph, ctx)


def _rename_producers(graph: Graph, ctx: PassContext) -> Graph:
    """A no-op that gives a graph output goes too when the node before it can give that name
    instead.
    """
    names: dict[str, str] = {}
    removed: set[int] = set()
    for node in ctx.each(graph.nodes):
        source = _source(graph, node, ctx)
        if (
            source is not None
            and node.outputs[0] in graph.output_set
            and source in graph.producers
            and source not in graph.output_set
            and source not in names
            and graph.types[source] == graph.types[node.outputs[0]]
        ):
            names[source] = node.outputs[0]
            removed.add(id(node))
    if not removed:
        return graph
    nodes = tuple(rename_node(n, names) for n in graph.nodes if id(n) not in removed)
    return graph.replace(
        nodes=nodes, types={n: t for n, t in graph.types.items() if n not in names}
    )


def _source(graph: Graph, node: Node, ctx: PassContext) -> str | None:
    """Return the input that the node's output is, or None."""
    if _is_no_op(graph, node, ctx):
        return node.inputs[0]
    neutral = NEUTRAL.get(node.op) if node.domain == "" else None
    if neutral is None or len(node.inputs) != 2 or not all(node.inputs) or node.version < 7:
        return None
    a, b = node.inputs
    for name, other in ((a, b), (b, a)) if node.op in COMMUTATIVE else ((a, b),):
        value = fixed(graph, other)
        kept = graph.types.get(name) == graph.types.get(node.outputs[0])
        if kept and value is not None and value.size and neutral(value):
            return name if _shape(graph, name) is not None else None
    return None


def _is_no_op(graph: Graph, node: Node, ctx: PassContext) -> bool:
    rule = RULES.get(node.op) if node.domain == "" else None
    if rule is None or not node.inputs or not node.inputs[0] or any(node.outputs[1:]):
        return False
    return rule(graph, node, ctx.registry.find(node).complete(node))


Attributes = Any


def _always(graph: Graph, node: Node, attributes: Attributes) -> bool:
    return True


def _dropout(graph: Graph, node: Node, attributes: Attributes) -> bool:
    if node.version < 7:
        return bool(attributes.get("is_test", 0))
    if node.version < 12 or len(node.inputs) < 3 or not node.inputs[2]:
        return True
    training = fixed(graph, node.inputs[2])
    return training is not None and not training.reshape(-1).any()


def _same_dtype(graph: Graph, node: Node, attributes: Attributes) -> bool:
    return graph.types[node.inputs[0]].dtype is graph.types[node.outputs[0]].dtype


def _same_shape(graph: Graph, node: Node, attributes: Attributes) -> bool:
    return _shape(graph, node.inputs[0]) is not None and _shape(graph, node.inputs[0]) == _shape(
        graph, node.outputs[0]
    )


def _transpose(graph: Graph, node: Node, attributes: Attributes) -> bool:
    shape = _shape(graph, node.inputs[0])
    if shape is None:
        return False
    perm = attributes.get("perm") or tuple(reversed(range(len(shape))))
    # Axes of size one may move without moving an element.
    moved = [axis for axis in perm if shape[axis] != 1]
    return moved == sorted(moved) and (
        tuple(perm) == tuple(range(len(perm))) or _same_shape(graph, node, attributes)
    )


def _slice(graph: Graph, node: Node, attributes: Attributes) -> bool:
    steps = fixed(graph, node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] else np.ones(1)
    return steps is not None and bool((steps > 0).all()) and _same_shape(graph, node, attributes)


def _pad(graph: Graph, node: Node, attributes: Attributes) -> bool:
    pads = attributes.get("pads") or attributes.get("paddings")
    if len(node.inputs) > 1 and node.inputs[1]:
        known = fixed(graph, node.inputs[1])
        pads = None if known is None else known.reshape(-1).tolist()
    return pads is not None and not any(pads)


def _one_input(graph: Graph, node: Node, attributes: Attributes) -> bool:
    return len(node.inputs) == 1


def _unbounded(graph: Graph, node: Node, attributes: Attributes) -> bool:
    return node.version >= 11 and not any(node.inputs[1:])


def _resize(graph: Graph, node: Node, attributes: Attributes) -> bool:
    if attributes.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        return False  # it may cut a region out
    scales = fixed(graph, node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    return scales is not None and scales.size > 0 and bool((scales == 1).all())


def _shape(graph: Graph, name: str) -> Shape | None:
    return graph.types[name].shape


RULES: dict[str, Callable[[Graph, Node, Attributes], bool]] = {
    "Identity": _always,
    "Dropout": _dropout,
    "Cast": _same_dtype,
    "CastLike": _same_dtype,
    "Reshape": _same_shape,
    "Flatten": _same_shape,
    "Squeeze": _same_shape,
    "Unsqueeze": _same_shape,
    "Expand": _same_shape,
    "Tile": _same_shape,
    "Transpose": _transpose,
    "Slice": _slice,
    "Pad": _pad,
    "Concat": _one_input,
    "Sum": _one_input,
    "Max": _one_input,
    "Min": _one_input,
    "Mean": _one_input,
    "Resize": _resize,
    "Split": _same_shape,
    "Clip": _unbounded,
}


def _ones(value: np.ndarray) -> bool:
    return value.dtype != object and bool((value == 1).all())


def _zeros(value: np.ndarray) -> bool:
    """0 may be taken off any number; -0 stays -0."""
    if value.dtype == object or not (value == 0).all():
        return False
    return value.dtype.kind in "iu" or not np.signbit(value.astype(np.float64)).any()


def _minus_zeros(value: np.ndarray) -> bool:
    """-0 may be added to any number; 0 would make 0 of -0."""
    if value.dtype == object or not (value == 0).all():
        return False
    return value.dtype.kind in "iu" or bool(np.signbit(value.astype(np.float64)).all())


# A fixed second operand that changes nothing, whatever the first is; bools are "and" and "or".
NEUTRAL: dict[str, Callable[[np.ndarray], bool]] = {
    "Mul": _ones,
    "Div": _ones,
    "Pow": _ones,
    "Add": _minus_zeros,
    "Sub": _zeros,
    "And": _ones,
    "Or": lambda value: not value.any(),
}
COMMUTATIVE = frozenset({"Mul", "Add", "And", "Or"})
