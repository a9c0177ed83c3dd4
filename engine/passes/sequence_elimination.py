"""Sequence elimination: lists whose elements are all known become plain tensors.

Exporters write `split`, `chunk`, `stack` and lists that are built step by step as sequences, whose
elements are taken out again at fixed positions, or joined. Then nothing needs the list: its
elements have shapes of their own, and items of a batch are followed through them.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil

import numpy as np

from engine.dtypes import DType
from engine.ir.graph import Array, Graph, Node
from engine.ir.types import TensorType
from engine.passes.context import PassContext
from engine.passes.rewriting import fixed, fresh_name, shape_of, tensor_type, with_constants

VERSION = 21  # of ONNX's own domain, for the nodes that are put in
MOST_ELEMENTS = 256
MOST_NAMES = 1 << 20  # of the elements of all lists: a file may claim a long one at every node

Elements = tuple[str, ...]


def eliminate_sequences(graph: Graph, ctx: PassContext) -> Graph:
    """Replace what reads known lists; the lists themselves are left to dead code elimination.

    New values have types only as far as they are at hand: constant folding, which comes next, types
    the graph anew.
    """
    if not any(node.op in READERS and node.domain == "" for node in graph.nodes):
        return graph
    return _Rewriter(graph, ctx).rewrite()


class _Rewriter:
    """One walk over a graph."""

    def __init__(self, graph: Graph, ctx: PassContext) -> None:
        self._graph, self._ctx = graph, ctx
        self._types = dict(graph.types)
        self._constants: dict[str, Array] = {}
        self._known: dict[str, Elements] = {}
        self._nodes: list[Node] = []
        self._room = MOST_NAMES

    def rewrite(self) -> Graph:
        for node in self._ctx.each(self._graph.nodes):
            rule = RULES.get(node.op) if node.domain == "" else None
            if rule is None or not rule(self, node):
                self._nodes.append(node)
        graph = self._graph.replace(nodes=tuple(self._nodes), types=self._types)
        return with_constants(graph, self._constants)

    # ------------------------------------------------------------------------------ lists

    def empty(self, node: Node) -> bool:
        return self._note(node, ())

    def construct(self, node: Node) -> bool:
        return self._note(node, node.inputs)

    def identity(self, node: Node) -> bool:
        return self._note(node, self._known.get(node.inputs[0]))

    def insert(self, node: Node) -> bool:
        old = self._known.get(node.inputs[0])
        if old is None:
            return False
        place = self._position(node, 2, len(old) + 1, len(old))
        if place is None:
            return False
        return self._note(node, (*old[:place], node.inputs[1], *old[place:]))

    def erase(self, node: Node) -> bool:
        old = self._known.get(node.inputs[0])
        place = None if old is None else self._position(node, 1, len(old), len(old) - 1)
        if old is None or place is None:
            return False
        return self._note(node, (*old[:place], *old[place + 1 :]))

    def split(self, node: Node) -> bool:
        """Parts of known sizes also come from a Split."""
        kind, sizes = tensor_type(self._graph, node.inputs[0]), self._sizes(node)
        if kind is None or not sizes or len(sizes) > MOST_ELEMENTS or not self._spend(len(sizes)):
            return False
        axis = int(node.attributes.get("axis", 0))  # type: ignore[arg-type]  # checked by its rule
        dtype = TensorType(kind.dtype)
        parts = tuple(self._fresh(f"{node.outputs[0]}/{i}", dtype) for i in range(len(sizes)))
        lengths = self._constant(f"{node.outputs[0]}/sizes", np.array(sizes, np.int64))
        self._add("Split", (node.inputs[0], lengths), parts, node, axis=axis)
        if len(node.inputs) < 2 and not node.attributes.get("keepdims", 1):
            axes = self._constant(f"{node.outputs[0]}/axis", np.array([axis], np.int64))
            wide = parts
            parts = tuple(self._fresh(f"{name}/entry", dtype) for name in wide)
            for before, after in zip(wide, parts, strict=True):
                self._add("Squeeze", (before, axes), (after,), node)
        return self._note(node, parts)

    def _note(self, node: Node, elements: Elements | None) -> bool:
        """Remember what a list holds; its node stays."""
        if elements is not None and len(elements) <= MOST_ELEMENTS and self._spend(len(elements)):
            self._known[node.outputs[0]] = elements
        return False

    def _spend(self, count: int) -> bool:
        self._room -= count
        return self._room >= 0

    # ------------------------------------------------------------------------------ readers

    def at(self, node: Node) -> bool:
        elements = self._known.get(node.inputs[0])
        place = None if elements is None else self._position(node, 1, len(elements), None)
        if elements is None or place is None:
            return False
        self._nodes.append(
            Node("Identity", (elements[place],), node.outputs, version=VERSION, name=node.name)
        )
        self._note(node, self._known.get(elements[place]))
        return True

    def concat(self, node: Node) -> bool:
        elements = self._known.get(node.inputs[0])
        if not elements or not all(isinstance(self._types.get(e), TensorType) for e in elements):
            return False
        if not self._spend(len(elements)):
            return False
        axis = int(node.attributes["axis"])  # type: ignore[arg-type]  # checked by its rule
        if node.attributes.get("new_axis", 0):
            kind = tensor_type(self._graph, node.outputs[0])
            if kind is None:
                return False
            axes = self._constant(f"{node.outputs[0]}/axis", np.array([axis], np.int64))
            dtype = TensorType(kind.dtype)
            wide = tuple(self._fresh(f"{node.outputs[0]}/{i}", dtype) for i in range(len(elements)))
            for before, after in zip(elements, wide, strict=True):
                self._add("Unsqueeze", (before, axes), (after,), node)
            elements = wide
        self._add("Concat", elements, node.outputs, node, axis=axis)
        return True

    # ------------------------------------------------------------------------------ tools

    def _position(self, node: Node, i: int, count: int, absent: int | None) -> int | None:
        """Return the fixed position that input `i` is, counted from the front.

        None when it is not known, or outside of `count` places.
        """
        if i >= len(node.inputs) or not node.inputs[i]:
            return absent if absent is not None and 0 <= absent < count else None
        value = fixed(self._graph, node.inputs[i])
        if value is None or value.size != 1:
            return None
        place = int(value.reshape(-1)[0])
        if node.op == "SequenceInsert" and place < 0:
            place += count - 1
        elif place < 0:
            place += count
        return place if 0 <= place < count else None

    def _sizes(self, node: Node) -> list[int] | None:
        """Return the sizes of the parts, checked to make up the axis."""
        shape = shape_of(self._graph, node.inputs[0])
        axis = int(node.attributes.get("axis", 0))  # type: ignore[arg-type]  # checked by its rule
        size = None if shape is None else shape[axis]
        if len(node.inputs) < 2 or not node.inputs[1]:
            return [1] * size if isinstance(size, int) and size <= MOST_ELEMENTS else None
        split = fixed(self._graph, node.inputs[1])
        if split is None or not isinstance(size, int):
            return None
        if split.ndim == 0:
            part = int(split)
            if part <= 0 or ceil(size / part) > MOST_ELEMENTS:
                return None
            return [min(part, size - start) for start in range(0, size, part)]
        sizes = [int(n) for n in split]
        return sizes if min(sizes, default=-1) >= 0 and sum(sizes) == size else None

    def _fresh(self, hint: str, kind: TensorType) -> str:
        name = fresh_name(self._graph, hint, self._types)
        self._types[name] = kind
        return name

    def _constant(self, hint: str, value: np.ndarray) -> str:
        kind = TensorType(DType.from_numpy(value.dtype), tuple(value.shape))
        name = self._fresh(hint, kind)
        self._constants[name] = value
        return name

    def _add(
        self, op: str, inputs: Elements, outputs: Elements, like: Node, **attributes: int
    ) -> None:
        name = f"{like.label}/{op}"
        self._nodes.append(Node(op, inputs, outputs, attributes, version=VERSION, name=name))


RULES: dict[str, Callable[[_Rewriter, Node], bool]] = {
    "SequenceEmpty": _Rewriter.empty,
    "SequenceConstruct": _Rewriter.construct,
    "SequenceInsert": _Rewriter.insert,
    "SequenceErase": _Rewriter.erase,
    "SplitToSequence": _Rewriter.split,
    "Identity": _Rewriter.identity,
    "SequenceAt": _Rewriter.at,
    "ConcatFromSequence": _Rewriter.concat,
}
READERS = frozenset({"SequenceAt", "ConcatFromSequence"})
