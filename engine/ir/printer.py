"""Writes graphs as text: stable, complete but for large tensors, for reading and golden tests."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from engine.ir.graph import Array, Attribute, Graph, Node
from engine.ir.value_types import VALUE_TYPES, ValueType

SHOWN_ELEMENTS = 8  # small tensors are written out
INDENT = "  "


def print_graph(graph: Graph) -> str:
    """Return the graph as text, one line per value or node, bodies indented under their nodes."""
    return "\n".join(_lines(graph, "")) + "\n"


def _lines(graph: Graph, indent: str) -> Iterator[str]:
    inputs = ", ".join(f"{_name(v.name)}: {v.type}" for v in graph.inputs)
    yield f"{indent}graph {_name(graph.name)}({inputs}) {{"
    inner = indent + INDENT
    for kind, table in (("weight", graph.initializers), ("constant", graph.constants)):
        for name, array in table.items():
            yield f"{inner}{kind} {_name(name)}: {_type(graph, name)}{_contents(array)}"
    for node in graph.nodes:
        yield from _node(graph, node, inner)
    results = ", ".join(f"{_name(v.name)}: {v.type}" for v in graph.outputs)
    yield f"{inner}return {results}"
    yield indent + "}"


def _node(graph: Graph, node: Node, indent: str) -> Iterator[str]:
    outputs = ", ".join(
        f"{_name(name)}: {_type(graph, name)}" if name else "_" for name in node.outputs
    )
    inputs = ", ".join(_name(name) if name else "_" for name in node.inputs)
    shown = {k: v for k, v in sorted(node.attributes.items()) if not isinstance(v, Graph)}
    attributes = "".join(f" {key}={_attribute(value)}" for key, value in shown.items())
    op = f"{node.domain}.{node.op}" if node.domain else node.op
    yield f"{indent}{outputs} = {op}@{node.version}({inputs}){attributes}"
    for key, body in sorted(node.bodies, key=lambda pair: pair[0]):
        yield f"{indent}{INDENT}{key}:"
        yield from _lines(body, indent + INDENT * 2)


def _name(name: str) -> str:
    """Write a name plainly where it cannot be misread, else quoted."""
    plain = name.replace("_", "").replace(".", "").replace("/", "").replace(":", "")
    return f"%{name}" if plain.isalnum() and plain.isascii() else f"%{name!r}"


def _type(graph: Graph, name: str) -> str:
    kind: ValueType | None = graph.types.get(name)
    return "?" if kind is None else str(kind)


def _contents(array: Array) -> str:
    if array.size > SHOWN_ELEMENTS or (array.ndim > 1 and not array.size):
        return ""
    return f" = {array.tolist()!r}"


def _attribute(value: Attribute) -> str:
    if isinstance(value, np.ndarray):
        shape = ", ".join(map(str, value.shape))
        return f"tensor<{value.dtype}[{shape}]{_contents(value)}>"
    if isinstance(value, tuple):
        return f"[{', '.join(map(repr, value))}]"
    return f"type<{value}>" if isinstance(value, VALUE_TYPES) else repr(value)
