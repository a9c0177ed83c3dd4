"""Gather with indices 0, 1, 2, ... up to the end of its axis: nothing but a Reshape.

And GatherND whose pairs count all rows and pick any places: the same within each row.

transformers indexes a mask by `mask[arange(rows)[:, None], arange(length)]`, which torch's older
exporter writes as one flat Gather of `row * length + place`, and the newer one as a GatherND of
pairs. That all places are taken in order is proved from the nodes and the shapes; then rows are
seen to stay apart, and no index is computed.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from engine.ir.graph import Array, Graph, Node
from engine.ir.types import Dim, Shape, element_count
from engine.passes.rewriting import (
    fixed,
    fresh_name,
    replace_nodes,
    scalar,
    shape_of,
    with_constants,
)

MOVES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
DEEPEST = 16  # of a chain that is looked through
MOST = 2**63 - 1  # of a target's numbers


def reshape_consecutive_gathers(graph: Graph) -> Graph:
    """Replace each Gather that takes everything in order by a Reshape."""
    changes: dict[int, Node | None] = {}
    targets: dict[str, Array] = {}
    for node in graph.nodes:
        found = None if node.domain else _as_reshape(graph, node)
        if found is not None:
            source, target = found
            name = fresh_name(graph, f"{node.outputs[0]}/target", targets)
            targets[name] = np.array(target, np.int64)
            changes[id(node)] = Node(
                "Reshape", (source, name), node.outputs, version=13, name=node.name
            )
        elif (within := _within_rows(graph, node)) is not None:
            changes[id(node)] = within
    return replace_nodes(with_constants(graph, targets), changes) if changes else graph


def _as_reshape(graph: Graph, node: Node) -> tuple[str, list[int]] | None:
    """Return what is reshaped, and to which target."""
    if node.op not in ("Gather", "GatherND"):
        return None
    data, indices = node.inputs
    before, picked, after = (shape_of(graph, n) for n in (data, indices, node.outputs[0]))
    if not before or not picked or after is None:
        return None
    takes_all = _takes_axis if node.op == "Gather" else _takes_leading_axes
    if not takes_all(graph, node, before, picked):
        return None
    for source in _sources(graph, data):
        target = _target(shape_of(graph, source), after)
        if target is not None:
            return source, target
    return None


def _within_rows(graph: Graph, node: Node) -> Node | None:
    """Return the GatherND that picks within each row, of one whose pairs count all rows first."""
    if node.domain or node.op != "GatherND" or node.attributes.get("batch_dims", 0):
        return None
    data, indices = node.inputs
    before, picked, pairs = shape_of(graph, data), shape_of(graph, indices), _pairs(graph, node)
    if not before or picked is None or pairs is None or len(pairs) != 2:
        return None
    rows, places = pairs
    if picked[0] != before[0] or shape_of(graph, places) != (*picked[:-1], 1):
        return None
    if _counting_axis(graph, rows, before[0], len(picked)) != 0:
        return None
    return node.replace(inputs=(data, places), attributes={"batch_dims": 1})


def _pairs(graph: Graph, node: Node) -> Sequence[str] | None:
    """Return what a GatherND's tuples are joined of, one value per axis of its data."""
    picked, tuples = shape_of(graph, node.inputs[1]), graph.producers.get(node.inputs[1])
    if tuples is None or tuples.domain or tuples.op != "Concat" or not picked:
        return None
    last = tuples.attributes.get("axis") in (-1, len(picked) - 1)
    return tuples.inputs if last and len(tuples.inputs) == picked[-1] else None


def _takes_axis(graph: Graph, node: Node, before: Shape, picked: Shape) -> bool:
    axis = node.attributes.get("axis", 0)
    if not isinstance(axis, int) or element_count(picked) != before[axis]:
        return False
    return is_consecutive(graph, node.inputs[1])


def _takes_leading_axes(graph: Graph, node: Node, before: Shape, picked: Shape) -> bool:
    """Whether a GatherND's tuples are those of all places of the leading axes, in order."""
    tuples = _pairs(graph, node)
    if node.attributes.get("batch_dims", 0) or tuples is None:
        return False
    if element_count(picked[:-1]) != element_count(before[: len(tuples)]):
        return False
    places = [
        _counting_axis(graph, name, size, len(picked))
        for name, size in zip(tuples, before, strict=False)
    ]
    return all(
        a is not None and b is not None and a < b for a, b in itertools.pairwise([-1, *places])
    )


def _counting_axis(graph: Graph, name: str, size: Dim, rank: int) -> int | None:
    """Return the one axis along which a value counts to `size`, the same along all others."""
    node = graph.producers.get(name)
    if node is None or node.domain or node.op != "Unsqueeze":
        return None
    name = node.inputs[0]
    shape = shape_of(graph, name)
    if shape is None or len(shape) != rank - 1 or shape_of(graph, node.outputs[0]) != (*shape, 1):
        return None
    spread = graph.producers.get(name)
    if spread is not None and spread.op == "Expand":
        name = spread.inputs[0]
    counted = shape_of(graph, name)
    if counted is None or not is_consecutive(graph, name):
        return None
    axes = [k + len(shape) - len(counted) for k, dim in enumerate(counted) if dim != 1]
    return axes[0] if len(axes) == 1 and element_count(counted) == size else None


def _sources(graph: Graph, name: str) -> list[str]:
    """Return the value and those that it is a reshaped form of."""
    names = [name]
    while len(names) < DEEPEST:
        node = graph.producers.get(names[-1])
        if node is None or node.domain or node.op not in MOVES:
            break
        names.append(node.inputs[0])
    return names


def _target(before: Shape | None, after: Shape) -> list[int] | None:
    """Return a Reshape's target: zeros for sizes that stay, numbers, and at most one -1."""
    if before is None or any(dim == 0 for dim in after):
        return None
    target = [
        dim if isinstance(dim, int) else 0 if i < len(before) and before[i] == dim else -1
        for i, dim in enumerate(after)
    ]
    return target if target.count(-1) <= 1 and max(target, default=0) <= MOST else None


def is_consecutive(graph: Graph, name: str, depth: int = 0) -> bool:
    """Whether a value read in order is 0, 1, 2, ..., proved from the nodes that give it."""
    known, node = fixed(graph, name), graph.producers.get(name)
    if known is not None:
        return known.dtype.kind in "iu" and np.array_equal(known.ravel(), np.arange(known.size))
    if node is None or node.domain or depth > DEEPEST:
        return False
    if node.op in MOVES:
        return is_consecutive(graph, node.inputs[0], depth + 1)
    if node.op == "Range":
        return scalar(graph, node.inputs[0]) == 0 and scalar(graph, node.inputs[2]) == 1
    if node.op == "Add":
        a, b = node.inputs
        if _adds_nothing(graph, a, b):
            return is_consecutive(graph, a, depth + 1)
        return _counts_blocks(graph, a, b, depth) or _counts_blocks(graph, b, a, depth)
    return False


def _adds_nothing(graph: Graph, value: str, other: str) -> bool:
    """Whether `other` is zeros that leave the shape of `value` alone."""
    zeros, shape = fixed(graph, other), shape_of(graph, value)
    return (
        zeros is not None
        and shape is not None
        and zeros.size == 1
        and not zeros.any()
        and (zeros.ndim <= len(shape))
    )


def _counts_blocks(graph: Graph, low: str, high: str, depth: int) -> bool:
    """Whether `low` counts within blocks and `high` is the number of the block times their size."""
    inner, outer = shape_of(graph, low), shape_of(graph, high)
    node = graph.producers.get(_sources(graph, high)[-1])
    if node is None or node.domain or node.op != "Mul" or inner is None or outer is None:
        return False
    if not _precedes(outer, inner) or not is_consecutive(graph, low, depth + 1):
        return False
    for block, size in (node.inputs, reversed(node.inputs)):
        if _number(graph, size) == element_count(inner) and is_consecutive(graph, block, depth + 1):
            counted = shape_of(graph, block)
            return counted is not None and element_count(counted) == element_count(outer)
    return False


def _precedes(outer: Shape, inner: Shape) -> bool:
    """Whether, aligned on the right, every axis of `outer` lies before every axis of `inner`."""
    last = [len(outer) - k for k, dim in enumerate(outer) if dim != 1]
    first = [len(inner) - k for k, dim in enumerate(inner) if dim != 1]
    return not last or not first or min(last) > max(first)


def _number(graph: Graph, name: str) -> Dim | None:
    """Return the one number of a value that is fixed or a size of something."""
    for _ in range(DEEPEST):
        known = fixed(graph, name)
        if known is not None:
            return int(known.reshape(())) if known.size == 1 and known.dtype.kind in "iu" else None
        node = graph.producers.get(name)
        if node is None or node.domain:
            return None
        if node.op == "Gather":
            return _size(graph, node.inputs)
        if node.op not in MOVES:
            return None
        name = node.inputs[0]
    return None


def _size(graph: Graph, inputs: Sequence[str]) -> Dim | None:
    """Return the dim that a Gather picks from a Shape."""
    node, place = graph.producers.get(inputs[0]), fixed(graph, inputs[1])
    if node is None or node.op != "Shape" or node.domain or place is None or place.size != 1:
        return None
    shape, k = shape_of(graph, node.inputs[0]), int(place.reshape(()))
    start, end = node.attributes.get("start", 0), node.attributes.get("end")
    if shape is None or not isinstance(start, int) or not isinstance(end, int | None):
        return None
    kept = shape[start:end]
    return kept[k] if -len(kept) <= k < len(kept) else None
