"""Renames values in nodes and in the bodies that capture them. Knows the IR only."""

from __future__ import annotations

from collections.abc import Mapping

from engine.ir.graph import Graph, Node, Value


def rename_node(node: Node, names: Mapping[str, str]) -> Node:
    """Return the node with values renamed, in its bodies too where they capture them."""
    bodies = {key: rename_captured(body, names) for key, body in node.bodies}
    return node.replace(
        inputs=tuple(names.get(n, n) for n in node.inputs),
        outputs=tuple(names.get(n, n) for n in node.outputs),
        attributes={**node.attributes, **bodies} if bodies else node.attributes,
    )


def rename_captured(body: Graph, names: Mapping[str, str]) -> Graph:
    """Return a body that captures renamed values; what it defines itself keeps its names."""
    captured = {name: names[name] for name in body.free_names if name in names}
    if not captured:
        return body
    return body.replace(
        nodes=tuple(rename_node(n, captured) for n in body.nodes),
        outputs=tuple(Value(captured.get(v.name, v.name), v.type) for v in body.outputs),
    )
