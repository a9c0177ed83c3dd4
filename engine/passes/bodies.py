"""Lets a pass see the bodies of If, Loop and Scan as graphs of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engine.ir.graph import Array, Graph, Node, Value
from engine.ir.value_types import ValueType

Rewrite = Callable[[Graph], Graph]


@dataclass(frozen=True)
class Outside:
    """What a body may read of the graphs around it, and the names that it must not hide."""

    types: Mapping[str, ValueType] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)

    def within(self, graph: Graph) -> Outside:
        """Return what a body inside of `graph` may read."""
        constants = {**self.constants, **graph.initializers, **graph.constants}
        return Outside({**self.types, **graph.types}, constants)


def rewrite_everywhere(graph: Graph, rewrite: Rewrite, outside: Outside = Outside()) -> Graph:
    """Apply a rewrite to a graph and to every body in it, outermost first."""
    graph = rewrite(graph)
    if not any(True for node in graph.nodes for _ in node.bodies):
        return graph
    inner = outside.within(graph)
    nodes = tuple(_with_bodies(node, rewrite, inner) for node in graph.nodes)
    return graph.replace(nodes=nodes)


def _with_bodies(node: Node, rewrite: Rewrite, outside: Outside) -> Node:
    bodies = {key: _rewritten(body, rewrite, outside) for key, body in node.bodies}
    return node.replace(attributes={**node.attributes, **bodies}) if bodies else node


def _rewritten(body: Graph, rewrite: Rewrite, outside: Outside) -> Graph:
    result = rewrite_everywhere(body, lambda graph: _opened(graph, rewrite, outside), outside)
    fresh = _names(result) - _names(body)
    # A new name that hides one around the body is rare enough to leave such a body as it was.
    return body if fresh & outside.types.keys() else result


def _opened(body: Graph, rewrite: Rewrite, outside: Outside) -> Graph:
    """Rewrite a body whose captured values have become inputs and constants for the time being."""
    captured = sorted(body.free_names)
    known = {name: outside.constants[name] for name in captured if name in outside.constants}
    kinds = {name: outside.types[name] for name in captured if name in outside.types}
    if len(kinds) != len(captured):
        return body
    given = tuple(Value(n, kind) for n, kind in kinds.items() if n not in known)
    result = rewrite(
        body.replace(
            inputs=(*body.inputs, *given),
            constants={**body.constants, **known},
            types={**kinds, **body.types},
        )
    )
    return result.replace(
        inputs=body.inputs,
        constants={n: v for n, v in result.constants.items() if n not in known},
        types={n: kind for n, kind in result.types.items() if n not in kinds},
    )


def _names(graph: Graph) -> set[str]:
    return {*graph.input_names, *graph.initializers, *graph.constants, *graph.producers}


__all__ = ["Outside", "rewrite_everywhere"]
