"""Transpositions are put off as long as possible, so that those that undo each other meet.

The walk goes through the graph once and owes every value its transposition: elementwise operators,
Concat, softmax and reductions work on the value as it lies, and then owe theirs; another Transpose
adds to the debt; a Gemm, or a MatMul of two matrices, pays by its own flags. Whoever else reads the
value gets it transposed, in one Transpose that all of them share. A debt that only a value's single
reader may pass on never makes transpositions more; where several readers may, they can become
fewer or more. Both are tried, and what has fewer is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.ir.graph import Array, Attribute, Graph, Node
from engine.ir.types import TensorType
from engine.ops.define import NUMPY_BROADCASTING, Elementwise
from engine.passes.context import PassContext
from engine.passes.rewriting import (
    fixed,
    fresh_name,
    is_single_use,
    shape_of,
    tensor_type,
    with_constants,
    with_nodes,
)

VERSION = 13  # of the nodes that are put in
ALONG_AXIS = frozenset({"Softmax", "LogSoftmax", "Hardmax"})
ONE_AXIS = 13  # since then they mean one axis, before all axes from one on
REDUCED = "Sum Mean Max Min Prod L1 L2 LogSum LogSumExp SumSquare"
REDUCTIONS = frozenset(f"Reduce{kind}" for kind in REDUCED.split())

Perm = tuple[int, ...]


def eliminate_transposes(graph: Graph, ctx: PassContext) -> Graph:
    """Move transpositions down, and drop those that meet their inverse."""
    before = _count(graph)
    if not before:
        return graph
    careful, bold = (_Walk(graph, ctx, shared).run() for shared in (False, True))
    best = bold if _count(bold) < _count(careful) else careful
    return best if _count(best) <= before else graph


def _count(graph: Graph) -> int:
    return sum(node.op == "Transpose" and not node.domain for node in graph.nodes)


@dataclass(frozen=True)
class Debt:
    """A value is `source` transposed by `perm`."""

    source: str
    perm: Perm


class _Walk:
    """One pass over the nodes: what has been emitted, and what is owed."""

    def __init__(self, graph: Graph, ctx: PassContext, shared: bool) -> None:
        self.graph = graph
        self.shared = shared  # whether one of several readers may pass a debt on
        self.ctx = ctx
        self.debts: dict[str, Debt] = {}
        self.paid: set[str] = set()
        self.nodes: list[Node] = []
        self.types: dict[str, TensorType] = {}
        self.constants: dict[str, Array] = {}
        self.taken: set[str] = set()

    def run(self) -> Graph:
        """Return the graph with its transpositions put off."""
        for node in self.ctx.each(self.graph.nodes):
            if not self._owes(node):
                self._emit(self._with_flags(node))
        for name in self.graph.output_names:
            self._pay(name)
        graph = self.graph.replace(types={**self.graph.types, **self.types})
        return with_nodes(with_constants(graph, self.constants), self.nodes)

    def _emit(self, node: Node) -> None:
        for name in node.reads:
            self._pay(name)
        self.nodes.append(node)

    def _pay(self, name: str) -> None:
        """Transpose a value for whoever cannot work on it as it lies, once."""
        debt = self.debts.get(name)
        if debt is None or name in self.paid:
            return
        self.paid.add(name)
        if debt.perm == tuple(range(len(debt.perm))):
            self.nodes.append(Node("Identity", (debt.source,), (name,), version=VERSION, name=name))
            return
        attributes: dict[str, Attribute] = {"perm": debt.perm}
        self.nodes.append(
            Node("Transpose", (debt.source,), (name,), attributes, version=VERSION, name=name)
        )

    # ------------------------------------------------------------------------ who passes it on

    def _owes(self, node: Node) -> bool:
        """Put a node's transposition off, if its meaning allows."""
        if node.domain or len(node.outputs) != 1 or not node.inputs:
            return False
        if node.op == "Transpose":
            return self._adds(node)
        perm = self._perm_of_inputs(node)
        if perm is None or node.outputs[0] in self.graph.output_set:
            return False
        kind = tensor_type(self.graph, node.outputs[0])
        if kind is None or kind.shape is None:
            return False
        if node.op in REDUCTIONS:
            return self._reduction(node, perm, kind)
        if len(kind.shape) != len(perm):
            return False
        if node.op == "Concat" and all(name in self.debts for name in node.inputs):
            axis = int(self._attribute(node, "axis")) % len(perm)
            return self._moved(node, perm, kind, {"axis": perm[axis]})
        if node.op in ALONG_AXIS:
            return self._along_axis(node, perm, kind)
        return self._is_elementwise(node) and self._moved(node, perm, kind, {})

    def _along_axis(self, node: Node, perm: Perm, kind: TensorType) -> bool:
        """A softmax may work along another axis; one of old is the same if the axis is the last."""
        stated = self._attribute(node, "axis")
        old = node.version < ONE_AXIS
        axis = ((1 if old else -1) if stated is None else int(stated)) % len(perm)
        if old and axis != len(perm) - 1:
            return False
        modern = node.replace(version=max(node.version, ONE_AXIS))
        return self._moved(modern, perm, kind, {"axis": perm[axis]})

    def _adds(self, node: Node) -> bool:
        shape = shape_of(self.graph, node.inputs[0])
        if shape is None:
            return False
        perm = tuple(self._attribute(node, "perm") or reversed(range(len(shape))))
        before = self.debts.get(node.inputs[0])
        if before is not None:
            perm = tuple(before.perm[axis] for axis in perm)
        source = node.inputs[0] if before is None else before.source
        self.debts[node.outputs[0]] = Debt(source, perm)
        return True

    def _perm_of_inputs(self, node: Node) -> Perm | None:
        """Return the one permutation that all owing inputs share, where it may be passed on."""
        owing = [name for name in node.inputs if name in self.debts]
        perms = {self.debts[name].perm for name in owing}
        if len(perms) != 1:
            return None
        if not self.shared and not all(is_single_use(self.graph, name) for name in owing):
            return None
        return perms.pop()

    def _is_elementwise(self, node: Node) -> bool:
        if node.op == "Cast":
            return True
        definition = self.ctx.registry.find(node).definition
        return isinstance(definition, Elementwise) and node.version >= NUMPY_BROADCASTING

    def _moved(
        self, node: Node, perm: Perm, kind: TensorType, attributes: dict[str, Attribute]
    ) -> bool:
        """Emit the node on values as they lie; its output owes the permutation."""
        inputs = [self._as_it_lies(name, perm) for name in node.inputs]
        if any(name is None for name in inputs):
            return False
        assert kind.shape is not None
        shape = [kind.shape[perm.index(axis)] for axis in range(len(perm))]
        self._emit_owing(
            node.replace(
                inputs=tuple(name or "" for name in inputs),
                attributes={**node.attributes, **attributes},
            ),
            kind.with_shape(shape),
            perm,
        )
        return True

    def _emit_owing(self, node: Node, kind: TensorType, perm: Perm) -> None:
        (name,) = node.outputs
        fresh = self._fresh(f"{name}/moved")
        self.types[fresh] = kind
        self._emit(node.replace(outputs=(fresh,)))
        self.debts[name] = Debt(fresh, perm)

    def _as_it_lies(self, name: str, perm: Perm) -> str | None:
        """Return the value that an input has before its transposition; None where there is none."""
        if not name:
            return ""
        if name in self.debts:
            return self.debts[name].source
        shape = shape_of(self.graph, name)
        if shape is None or len(shape) > len(perm):
            return None
        if all(dim == 1 for dim in shape):
            return name
        value = fixed(self.graph, name)
        if value is None:
            return None
        wide = value.reshape((1,) * (len(perm) - value.ndim) + value.shape)
        return self._constant(name, np.ascontiguousarray(wide.transpose(np.argsort(perm))))

    # ------------------------------------------------------------------------ axes

    def _reduction(self, node: Node, perm: Perm, kind: TensorType) -> bool:
        """Reduce other axes; without them, the rest keep their order among themselves."""
        stated = self._attribute(node, "axes")
        if len(node.inputs) > 1 and node.inputs[1]:
            known = fixed(self.graph, node.inputs[1])
            stated = None if known is None else known.reshape(-1).tolist()
        if not stated or node.inputs[0] not in self.debts:
            return False
        rank = len(perm)
        before = {int(axis) % rank for axis in stated}
        axes = sorted(perm[axis] for axis in before)
        rest = perm
        if not self._attribute(node, "keepdims"):
            kept = [perm[axis] for axis in range(rank) if axis not in before]
            rest = tuple(sorted(kept).index(axis) for axis in kept)
        assert kind.shape is not None
        shape = [kind.shape[rest.index(axis)] for axis in range(len(rest))]
        inputs: tuple[str, ...] = (self.debts[node.inputs[0]].source,)
        attributes = dict(node.attributes)
        if len(node.inputs) > 1 and node.inputs[1]:
            inputs = (*inputs, self._constant(node.inputs[1], np.array(axes, np.int64)))
        else:
            attributes["axes"] = tuple(axes)
        moved = node.replace(inputs=inputs, attributes=attributes)
        self._emit_owing(moved, kind.with_shape(shape), rest)
        return True

    def _with_flags(self, node: Node) -> Node:
        """Let a Gemm read matrices as they lie; a MatMul of two matrices becomes one for that."""
        if node.domain or node.op not in ("Gemm", "MatMul"):
            return node
        debts = [self.debts.get(name) for name in node.inputs[:2]]
        kind = tensor_type(self.graph, node.outputs[0])
        if kind is None or not kind.dtype.is_float:
            return node
        if any(len(shape_of(self.graph, name) or ()) != 2 for name in node.inputs[:2]):
            return node
        if all(debt is None or debt.perm != (1, 0) for debt in debts):
            return node
        attributes = dict(node.attributes)
        inputs = list(node.inputs)
        for i, flag in enumerate(("transA", "transB")):
            debt = debts[i]
            if debt is not None and debt.perm == (1, 0):
                inputs[i] = debt.source
                attributes[flag] = 0 if attributes.get(flag) else 1
        version = node.version if node.op == "Gemm" else VERSION
        return node.replace(op="Gemm", inputs=tuple(inputs), attributes=attributes, version=version)

    # ------------------------------------------------------------------------ parts

    def _attribute(self, node: Node, name: str) -> Any:
        return self.ctx.registry.find(node).complete(node).get(name)

    def _constant(self, hint: str, value: Array) -> str:
        name = self._fresh(f"{hint}/moved")
        self.constants[name] = value
        return name

    def _fresh(self, hint: str) -> str:
        name = fresh_name(self.graph, hint, self.taken)
        self.taken.add(name)
        return name
