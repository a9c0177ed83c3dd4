"""Graphs: nodes, values and what is known of them, all immutable; a rewrite builds a new graph.

Names are ONNX's: strings, each assigned once (SSA), and the empty string is an absent optional
input or output. A body (the graph inside an If, Loop or Scan node) may read names of the graphs
around it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Union

import numpy as np

from engine.ir.value_types import ValueType

Array = (
    Any  # numpy.ndarray here, cupy.ndarray on a GPU: whatever the array namespace of a device holds
)
Attribute = Union[
    int,
    float,
    str,
    bytes,
    tuple[int, ...],
    tuple[float, ...],
    tuple[str, ...],
    tuple[bytes, ...],
    np.ndarray,
    ValueType,
    "Graph",
]


@dataclass(frozen=True, slots=True)
class Value:
    """A named value and its type."""

    name: str
    type: ValueType


@dataclass(frozen=True, eq=False)
class Node:
    """One operator applied to named values.

    Attributes:
        op: The operator's name.
        inputs: Names of values; "" for an optional input that is absent.
        outputs: Names of values; "" for an optional output that nobody wants.
        attributes: What the model states; defaults are the operator's matter.
        domain: "" is ONNX's own.
        version: The opset that the model declares for the domain.
        name: For messages and profiles; need not be unique.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    domain: str = ""
    version: int = 1
    name: str = ""

    @property
    def label(self) -> str:
        """How messages call the node: its name, or its first output where it has none."""
        return self.name or next(filter(None, self.outputs), self.op)

    @property
    def bodies(self) -> Iterator[tuple[str, Graph]]:
        """The graphs among the attributes, with the attributes' names."""
        for name, attribute in self.attributes.items():
            if isinstance(attribute, Graph):
                yield name, attribute

    @cached_property
    def captured(self) -> tuple[str, ...]:
        """Names of the surrounding graph that the node's bodies read, sorted."""
        names: set[str] = set()
        for _, body in self.bodies:
            names |= body.free_names
        return tuple(sorted(names))

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Every name the node needs: present inputs, then what its bodies capture."""
        return (*filter(None, self.inputs), *self.captured)

    def replace(self, **changes: Any) -> Node:
        """Return a copy with some fields changed."""
        return replace(self, **changes)


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in topological order between named inputs and outputs.

    Attributes:
        name: The graph's name.
        inputs: What a run is fed, in order. Never a name that has a fixed value.
        outputs: What a run gives back, in order.
        nodes: Each reads only names defined before it.
        initializers: Fixed values that the model file carries (weights).
        types: A type for every name: inputs, initializers, constants and nodes' outputs.
        constants: Fixed values found while compiling: of Constant nodes and of folding. Same
            standing as initializers.
        metadata: Free text that the model file carries.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    initializers: Mapping[str, Array] = field(default_factory=dict)
    types: Mapping[str, ValueType] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)

    def replace(self, **changes: Any) -> Graph:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    def constant(self, name: str) -> Array | None:
        """Return the fixed value of a name, or None when it has none."""
        value = self.initializers.get(name)
        return self.constants.get(name) if value is None else value

    @cached_property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in order."""
        return tuple(v.name for v in self.inputs)

    @cached_property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return tuple(v.name for v in self.outputs)

    @cached_property
    def output_set(self) -> frozenset[str]:
        """Names of the outputs, for asking whether a name is one."""
        return frozenset(self.output_names)

    @cached_property
    def producers(self) -> Mapping[str, Node]:
        """Which node computes a name. Inputs and fixed values have no producer."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def consumers(self) -> Mapping[str, tuple[Node, ...]]:
        """Which nodes read a name, in order, bodies' captures included; () is left out.

        Outputs do not count.
        """
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.reads):
                found.setdefault(name, []).append(node)
        return {name: tuple(nodes) for name, nodes in found.items()}

    @cached_property
    def free_names(self) -> frozenset[str]:
        """Names that the graph reads and does not define: what a body captures."""
        defined = {*self.input_names, *self.initializers, *self.constants, *self.producers}
        read = {name for node in self.nodes for name in node.reads}
        return frozenset((read | set(self.output_names)) - defined)

    def walk(self) -> Iterator[tuple[Graph, Node]]:
        """Yield every node with its graph, bodies included, outermost first."""
        stack = [self]
        while stack:
            graph = stack.pop()
            for node in graph.nodes:
                yield graph, node
                stack.extend(body for _, body in node.bodies)
