"""Holds nodes to what ONNX's schemas say of element types: inputs whose type has one name have one
type.

Rules of operators look at few of their inputs' types; what computes from the others relies on this.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.dtypes import DType
from engine.errors import InvalidModel
from engine.frontend.schema import find_schema
from engine.ir.graph import Graph, Node
from engine.ir.types import TensorType
from engine.ir.value_types import ValueType

Scopes = tuple[Mapping[str, ValueType], ...]  # innermost first


def check_shared_types(graph: Graph, around: Scopes = ()) -> None:
    """Raise `InvalidModel`, naming the node, where inputs of one type differ; bodies too."""
    scopes = (graph.types, *around)
    for node in graph.nodes:
        _check_node(node, scopes)
        for _, body in node.bodies:
            check_shared_types(body, scopes)


def _check_node(node: Node, scopes: Scopes) -> None:
    schema = find_schema(node.op, node.version, node.domain)
    if schema is None:
        return
    first: dict[str, tuple[int, DType]] = {}
    for i, name in enumerate(node.inputs):
        variable = schema.variable(i)
        kind = _type_of(name, scopes) if variable else None
        if not isinstance(kind, TensorType):
            continue
        place, dtype = first.setdefault(variable, (i, kind.dtype))
        if kind.dtype is not dtype:
            raise InvalidModel(
                f"node {node.label!r} ({node.op}): input {i} is {kind.dtype}, expected {dtype} "
                f"as input {place}"
            )


def _type_of(name: str, scopes: Scopes) -> ValueType | None:
    return next((types[name] for types in scopes if name in types), None)
