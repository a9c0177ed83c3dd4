"""Checks that a graph keeps the rules of the IR. Run after every pass; what it finds is a fault of
the engine.

Rules: names are defined once and before they are read; fixed values are no inputs; every name has a
type, and fixed values have the one they are listed with; every output exists; attributes have kinds
that the IR knows; bodies keep the same rules and may also read what surrounds them. Given the
operators' knowledge, also: every operator exists, and no type contradicts the operator's own rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from engine.dtypes import DType
from engine.errors import EngineError, GraphInvalid
from engine.ir.graph import Graph, Node
from engine.ir.types import Dim, TensorType
from engine.ir.value_types import VALUE_TYPES, MapType, OptionalType, SequenceType, ValueType

Known = Callable[[Node], bool]
Reinfer = Callable[[Graph], Mapping[str, ValueType]]
MAX_NESTING = 64  # deeper than any limit lets a model in; stops a graph that contains itself


def verify_graph(
    graph: Graph, *, known: Known | None = None, reinfer: Reinfer | None = None
) -> None:
    """Raise `GraphInvalid`, naming the place, unless the graph keeps every rule.

    `known` tells whether an operator exists; `reinfer` types the graph anew from its inputs.
    """
    _Checker(known).check(graph, frozenset(), 0)
    if reinfer is not None:
        try:
            fresh = reinfer(graph)
        except EngineError as error:
            raise GraphInvalid(f"graph {graph.name!r} cannot be typed again: {error}") from error
        _compare_types(graph, fresh)


class _Checker:
    def __init__(self, known: Known | None) -> None:
        self.known = known

    def check(self, graph: Graph, outside: frozenset[str], depth: int) -> None:
        if depth > MAX_NESTING:
            raise GraphInvalid(f"graph {graph.name!r}: bodies nest deeper than {MAX_NESTING}")
        defined: set[str] = set()
        self._define(graph, "an input", graph.input_names, defined, outside)
        self._define(graph, "an initializer", graph.initializers, defined, outside)
        self._define(graph, "a constant", graph.constants, defined, outside)
        for node in graph.nodes:
            self._node(graph, node, outside, defined, depth)
            self._define(graph, _place(node), filter(None, node.outputs), defined, outside)
        for value in graph.outputs:
            if value.name not in defined and value.name not in outside:
                raise GraphInvalid(
                    f"output {value.name!r} of graph {graph.name!r} is never defined"
                )
        _check_types(graph, defined)

    def _define(
        self,
        graph: Graph,
        what: str,
        names: Iterable[str],
        defined: set[str],
        outside: frozenset[str],
    ) -> None:
        for name in names:
            if not name:
                raise GraphInvalid(f"graph {graph.name!r}: {what} has no name")
            if name in defined:
                raise GraphInvalid(f"{name!r}, {what}, is defined already in graph {graph.name!r}")
            if name in outside:
                raise GraphInvalid(f"{name!r}, {what} of {graph.name!r}, hides a name around it")
            defined.add(name)

    def _node(
        self, graph: Graph, node: Node, outside: frozenset[str], defined: set[str], depth: int
    ) -> None:
        for name in filter(None, node.inputs):
            if name not in defined and name not in outside:
                raise GraphInvalid(f"{_place(node)} reads {name!r} before it is defined")
        if not any(node.outputs):
            raise GraphInvalid(f"{_place(node)} gives no output")
        for key, value in node.attributes.items():
            if not is_attribute(value):
                raise GraphInvalid(f"{_place(node)}: attribute {key!r} is a {type(value).__name__}")
        if self.known is not None and not self.known(node):
            raise GraphInvalid(f"{_place(node)}: no operator {node.domain}.{node.op}")
        for _, body in node.bodies:
            # Only here is one set of all visible names worth its making.
            self.check(body, outside | defined, depth + 1)


def is_attribute(value: object) -> bool:
    """Whether a value is of a kind that attributes may have."""
    if isinstance(value, tuple):
        kinds = {type(each) for each in value}
        return len(kinds) <= 1 and kinds <= {int, float, str, bytes}
    return isinstance(value, (int, float, str, bytes, np.ndarray, Graph, *VALUE_TYPES))


def _check_types(graph: Graph, defined: set[str]) -> None:
    types = graph.types
    for name in defined:
        if name not in types:
            raise GraphInvalid(f"{name!r} has no type in graph {graph.name!r}")
    for value in (*graph.inputs, *graph.outputs):
        listed = types.get(value.name, value.type)
        if listed != value.type:
            raise GraphInvalid(f"{value.name!r} is {value.type} outside, {listed} in the types")
    for table in (graph.initializers, graph.constants):
        for name, array in table.items():
            actual = TensorType(DType.from_numpy(array.dtype), tuple(map(int, array.shape)))
            if types[name] != actual:
                raise GraphInvalid(f"{name!r} holds a {actual}, its type says {types[name]}")


def _compare_types(graph: Graph, fresh: Mapping[str, ValueType]) -> None:
    for node in graph.nodes:
        for name in filter(None, node.outputs):
            found, listed = fresh.get(name), graph.types[name]
            if found is not None and contradicts(found, listed):
                raise GraphInvalid(f"{_place(node)}: {name!r} should be {found}, is {listed}")


def contradicts(a: ValueType, b: ValueType) -> bool:
    """Whether two types can never describe one value; open symbols may still turn out equal."""
    match a, b:
        case TensorType(), TensorType():
            return a.dtype is not b.dtype or _shapes_contradict(a, b)
        case SequenceType(), SequenceType():
            # Elements of two empty sequences need not be alike.
            return a.dtype is not b.dtype
        case OptionalType(), OptionalType():
            return contradicts(a.element, b.element)
        case MapType(), MapType():
            return a.key is not b.key or contradicts(a.value, b.value)
    return True


def _shapes_contradict(a: TensorType, b: TensorType) -> bool:
    if a.shape is None or b.shape is None:
        return False
    return len(a.shape) != len(b.shape) or _any_differs(a.shape, b.shape)


def _any_differs(a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    differences = (left - right for left, right in zip(a, b, strict=True))
    return any(isinstance(each, int) and each != 0 for each in differences)


def _place(node: Node) -> str:
    return f"node {node.label!r} ({node.op})"
