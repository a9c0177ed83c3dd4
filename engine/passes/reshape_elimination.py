"""Reshapes that undo each other, or that the next one makes superfluous.

Reshape, Flatten, Squeeze and Unsqueeze only rename positions. Where one leads back to a shape that
the value had before, it becomes an Identity of that value; a Reshape to fixed sizes reads what was
there before the others; and a Reshape that merges leading axes around a Transpose of the last two
goes (torch writes keys of attention so). Shapes must be proved equal; a Reshape whose target copies
axes (0) or is computed stays, unless its result can be told without computing: a target made of the
input's own sizes, as torch writes every `view`, becomes zeros, numbers and at most one -1, and the
arithmetic on shapes behind it is dead.
"""

from __future__ import annotations

import numpy as np

from engine.ir.graph import Array, Graph, Node
from engine.ir.types import Dim, Shape
from engine.passes.consecutive_gather import reshape_consecutive_gathers
from engine.passes.context import PassContext
from engine.passes.rewriting import (
    fixed,
    fresh_name,
    replace_nodes,
    shape_of,
    tensor_type,
    with_constants,
)

RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})
LONGEST = 16  # of a chain that is looked through
MOST = 2**63 - 1  # of a target's numbers: a file may claim sizes whose product is more


def eliminate_reshapes(graph: Graph, ctx: PassContext) -> Graph:
    """Replace what leads back, and shorten what leads on."""
    graph = reshape_consecutive_gathers(graph)
    changes: dict[int, Node | None] = {}
    targets: dict[str, Array] = {}
    for node in ctx.each(graph.nodes):
        if node.op not in RESHAPES or node.domain:
            continue
        changed = _back(graph, node) or _around_transpose(graph, node) or _direct(graph, node)
        if changed is None and (target := _target(graph, node)) is not None:
            name = fresh_name(graph, f"{node.outputs[0]}/target", targets)
            targets[name] = np.array(target, np.int64)
            attributes = {k: v for k, v in node.attributes.items() if k != "allowzero"}
            changed = node.replace(inputs=(node.inputs[0], name), attributes=attributes)
        if changed is not None:
            changes[id(node)] = changed
    return replace_nodes(with_constants(graph, targets), changes) if changes else graph


def _target(graph: Graph, node: Node) -> list[int] | None:
    """Return a target of zeros (sizes that stay), numbers and one -1 in place of a computed one."""
    if node.op != "Reshape" or len(node.inputs) != 2 or fixed(graph, node.inputs[1]) is not None:
        return None
    before, after = shape_of(graph, node.inputs[0]), shape_of(graph, node.outputs[0])
    if before is None or after is None:
        return None
    target = [_entry(before, i, dim) for i, dim in enumerate(after)]
    if target.count(-1) > 1 or any(dim == 0 for dim in after) or max(target, default=0) > MOST:
        return None
    return target


def _entry(before: Shape, i: int, dim: Dim) -> int:
    if isinstance(dim, int):
        return dim
    return 0 if i < len(before) and before[i] == dim else -1


def _chain(graph: Graph, node: Node) -> list[str]:
    """Return the values that the node is a reshaped form of, nearest first."""
    names: list[str] = []
    current: Node | None = node
    while current is not None and len(names) < LONGEST:
        if current.op not in RESHAPES or current.domain:
            break
        names.append(current.inputs[0])
        current = graph.producers.get(current.inputs[0])
    return names


def _back(graph: Graph, node: Node) -> Node | None:
    kind = tensor_type(graph, node.outputs[0])
    if kind is None or kind.shape is None:
        return None
    for name in _chain(graph, node)[1:]:
        if tensor_type(graph, name) == kind:
            return Node("Identity", (name,), node.outputs, version=13, name=node.name)
    return None


def _direct(graph: Graph, node: Node) -> Node | None:
    sources = _chain(graph, node)[1:]
    target = fixed(graph, node.inputs[1]) if len(node.inputs) > 1 else None
    if node.op != "Reshape" or not sources or target is None or not (target != 0).all():
        return None
    return node.replace(inputs=(sources[-1], *node.inputs[1:]))


def _around_transpose(graph: Graph, node: Node) -> Node | None:
    """[..., A, B] -> [P, A, B] -> [P, B, A] -> [..., B, A] is one Transpose."""
    middle = graph.producers.get(node.inputs[0])
    if middle is None or middle.op != "Transpose" or middle.domain:
        return None
    first = graph.producers.get(middle.inputs[0])
    if first is None or first.op != "Reshape" or first.domain:
        return None
    if tuple(middle.attributes.get("perm", ())) != (0, 2, 1):  # type: ignore[arg-type]
        return None
    names = (first.inputs[0], first.outputs[0], node.outputs[0])
    before, merged, after = (shape_of(graph, name) for name in names)
    if before is None or merged is None or after is None or len(before) < 3:
        return None
    swapped = (*before[:-2], before[-1], before[-2])
    if len(merged) != 3 or merged[1:] != before[-2:] or after != swapped:
        return None
    rank = len(before)
    perm = (*range(rank - 2), rank - 1, rank - 2)
    return Node(
        "Transpose", first.inputs[:1], node.outputs, {"perm": perm}, version=13, name=node.name
    )
