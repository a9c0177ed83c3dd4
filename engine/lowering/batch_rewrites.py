"""Frees a graph from sizes that an export for one item wrote down.

Walks the graph with a symbol in place of the leading 1, follows where the items lie, and changes
what would lose them: a Reshape to a fixed shape leaves the items' dim open, and what all items
share (a class token) is repeated before it is joined to what each item has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from engine.evaluation import FoldBudget, Walk
from engine.inference import Scope
from engine.ir.graph import Array, Graph, Node, Value
from engine.ir.types import Dim, Shape, SymDim
from engine.limits import Deadline, Limits
from engine.lowering.batch_axes import input_state, node_states
from engine.ops.registry import Registry
from engine.ops.row_rules import reshaped_state
from engine.ops.rows import SHARED, RowKind, RowState

VERSION = 21  # of ONNX's own domain, for the nodes that are put in


class BatchRewriter:
    """One attempt with one choice of inputs."""

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[Value],
        batch: SymDim,
        registry: Registry,
        limits: Limits,
        deadline: Deadline,
    ) -> None:
        self._graph = graph
        self._inputs = tuple(inputs)
        self._batch = batch
        self._registry = registry
        self._walk = Walk(registry, limits, deadline, FoldBudget(), root=graph)
        self._scope = Scope()
        self._states: dict[str, RowState] = {}
        self._constants: dict[str, Array] = dict(graph.constants)
        self._nodes: list[Node] = []

    def rewrite(self) -> Graph:
        """Return the graph with the new inputs; types are for the caller to find anew."""
        for value in self._inputs:
            self._scope.types[value.name] = value.type
            self._states[value.name] = input_state(value.name, value.type, self._batch)
        for name, array in (*self._graph.initializers.items(), *self._constants.items()):
            self._scope.add_constant(name, array)
            self._states[name] = SHARED
        for node in self._graph.nodes:
            self._take(node)
        return self._graph.replace(
            inputs=self._inputs, nodes=tuple(self._nodes), constants=self._constants
        )

    def _take(self, node: Node) -> None:
        if node.op == "Concat" and node.domain == "":
            node = self._with_repeated(node)
        self._follow(node)
        if node.op == "Reshape" and self._is_out_of_place(node.outputs[0]):
            opened = self._opened(node)
            if opened is not None:
                self._nodes.pop()
                self._follow(opened)

    def _is_out_of_place(self, name: str) -> bool:
        """Whether the items are lost, or among the features, as a `[1, -1]` leaves them."""
        state, rank = self._states[name], self._scope.types[name].rank
        lost = state.kind is RowKind.MIXED
        return lost or (state.is_rows and rank is not None and state.axis == rank - 1)

    def _follow(self, node: Node) -> None:
        """Type a node, find where its outputs carry the items, and add it."""
        self._walk.visit(node, self._scope, self._constants)
        found = node_states(node, self._states, self._registry, self._scope, self._batch)
        self._states.update((n, s) for n, s in zip(node.outputs, found, strict=False) if n)
        self._nodes.append(node)

    # ------------------------------------------------------------------------------ Reshape

    def _opened(self, node: Node) -> Node | None:
        """Return the Reshape with the items' dim left open, when its target is fixed."""
        source, output = node.inputs[0], node.outputs[0]
        state, before = self._states[source], self._scope.types[source].shape
        after = self._graph.types[output].shape
        is_fixed = len(node.inputs) > 1 and node.inputs[1] in self._scope.constants
        if not state.is_rows or before is None or after is None or not is_fixed:
            return None
        axis = self._axis_to_open(before, after, state)
        if axis is None:
            return None
        target = [-1 if k == axis else dim for k, dim in enumerate(after)]
        name = self._add_constant(f"{output}/shape", np.array(target, np.int64))
        return node.replace(inputs=(source, name), attributes={})

    def _axis_to_open(self, before: Shape, after: Shape, state: RowState) -> int | None:
        """Return the axis of `after`, a shape for one item, that can carry all items."""
        choices: list[tuple[bool, bool, int]] = []
        for axis, size in enumerate(after):
            rest = (*after[:axis], *after[axis + 1 :])
            if any(not isinstance(d, int) or d == 0 for d in rest):
                continue
            grown: list[Dim] = list(after)
            grown[axis] = size * self._batch
            found = reshaped_state(before, tuple(grown), state, self._batch)
            if found is not None and found.axis == axis:
                # Features are what the last axis holds: items among them are summed up by products.
                choices.append((axis == len(after) - 1, found.outer != 1, axis))
        return min(choices)[2] if choices else None

    # ------------------------------------------------------------------------------ Concat

    def _with_repeated(self, node: Node) -> Node:
        """Expand what all items share to as many items as the others have."""
        leader = next((n for n in node.inputs if self._states[n].is_rows), None)
        if leader is None:
            return node
        axis = self._states[leader].axis
        inputs = []
        for name in node.inputs:
            shape = self._scope.types[name].shape
            if (
                self._states[name] == SHARED
                and shape is not None
                and shape[axis : axis + 1] == (1,)
            ):
                *made, last = self._repetition(name, len(shape), leader, axis)
                for each in (*made, last):
                    self._follow(each)
                name = last.outputs[0]
            inputs.append(name)
        return node.replace(inputs=tuple(inputs))

    def _repetition(self, name: str, rank: int, leader: str, axis: int) -> Iterator[Node]:
        """Yield nodes that expand `name` along an axis to the size that `leader` has there."""
        count, target, rows = (self._fresh(f"{name}/{k}") for k in ("count", "target", "rows"))
        front = self._add_constant(f"{name}/front", np.ones(axis, np.int64))
        behind = self._add_constant(f"{name}/behind", np.ones(rank - axis - 1, np.int64))
        span = {"start": axis, "end": axis + 1}
        yield Node("Shape", (leader,), (count,), span, version=VERSION, name=count)
        parts = (front, count, behind)
        yield Node("Concat", parts, (target,), {"axis": 0}, version=VERSION, name=target)
        yield Node("Expand", (name, target), (rows,), version=VERSION, name=rows)

    def _add_constant(self, hint: str, value: Array) -> str:
        name = self._fresh(hint)
        self._constants[name] = value
        self._scope.add_constant(name, value)
        self._states[name] = SHARED
        return name

    def _fresh(self, hint: str) -> str:
        name = hint
        while name in self._graph.types or name in self._scope.types:
            name += "'"
        return name
