"""Which pictures are parts of wider ones: written into a joined one, or read out of one."""

from __future__ import annotations

from engine.cpu.target import Target
from engine.dtypes import DType
from engine.ir.graph import Graph, Node
from engine.ir.types import TensorType


def places_of(graph: Graph, node: Node, target: Target) -> dict[str, tuple[str, int]]:
    """Return the pictures that can be written right into this Concat: name -> (result, channel).

    A name that several Concats read belongs to the longest one; those that join the beginning of
    the same list are parts of it (DenseNet joins one feature more at a time).
    """
    if node.op != "Concat" or node.domain not in ("", "ai.onnx"):
        return {}
    names, y = list(node.inputs), node.outputs[0]
    if node.attributes.get("axis", 1) not in (1, -3) or len(set(names)) < len(names):
        return {}
    family = _joined_with(graph, node)
    if any(len(other.inputs) > len(names) and _begins(other, node) for other in family):
        return {}
    found: dict[str, tuple[str, int]] = {}
    channel, starts = 0, {}
    for name in names:
        channels = _channels(graph, name)
        if channels is None or channels % target.lanes:
            return {}
        starts[name] = channel
        others = [c for c in graph.consumers.get(name, ()) if c.op == "Concat" and c is not node]
        computed = name in graph.producers and graph.constant(name) is None
        if computed and all(_begins(node, other) for other in others):
            found[name] = (y, channel)
        channel += channels
    for other in family:
        if other is not node and _begins(node, other) and all(n in found for n in other.inputs):
            found[other.outputs[0]] = (y, 0)
    return found


def _joined_with(graph: Graph, node: Node) -> list[Node]:
    """Return the Concats along channels that begin with the same name."""
    return [
        c
        for c in graph.consumers.get(node.inputs[0], ())
        if c.op == "Concat" and c.attributes.get("axis", 1) in (1, -3)
    ]


def _begins(longer: Node, other: Node) -> bool:
    """Whether a Concat's list is the beginning of a longer one's."""
    mine, theirs = tuple(longer.inputs), tuple(other.inputs)
    return (
        other.attributes.get("axis", 1) in (1, -3)
        and len(theirs) < len(mine)
        and mine[: len(theirs)] == theirs
    )


def _channels(graph: Graph, name: str) -> int | None:
    """Return the channels of a float32 picture of known size."""
    kind = graph.types.get(name)
    if not isinstance(kind, TensorType) or kind.dtype is not DType.FLOAT32:
        return None
    if kind.shape is None or len(kind.shape) != 4:
        return None
    if not all(isinstance(d, int) and d > 0 for d in kind.shape[1:]):
        return None
    channels = kind.shape[1]
    return channels if isinstance(channels, int) else None


def views_of(graph: Graph, node: Node, target: Target) -> dict[str, str]:
    """Return the results that are some channels of a picture: result -> picture.

    Their readers see the picture's border, so it must be as wide as they need.
    """
    if node.op not in ("Split", "Slice") or node.domain not in ("", "ai.onnx"):
        return {}
    source = graph.types.get(node.inputs[0])
    if _channels(graph, node.inputs[0]) is None or not isinstance(source, TensorType):
        return {}
    found = {}
    for name in filter(None, node.outputs):
        kind, channels = graph.types.get(name), _channels(graph, name)
        if channels is None or channels % target.lanes or not isinstance(kind, TensorType):
            continue
        if kind.shape is not None and source.shape is not None:
            same = kind.shape[0] == source.shape[0] and kind.shape[2:] == source.shape[2:]
            if same:
                found[name] = node.inputs[0]
    return found
