"""Attention over rows and heads that were merged into one axis gets them apart again.

Older exporters (torch.bmm in Transformers before 4.48) compute attention on (N * H, S, D), go back
to (N, H, S, L) for the mask and merge once more for the softmax. Products, transpositions of the
last two axes and softmax do the same on four axes, where attention is recognised and caches are
seen as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from engine.dtypes import DType
from engine.ir.graph import Graph, Node
from engine.ir.types import Shape, TensorType
from engine.passes.context import PassContext
from engine.passes.graph_draft import GraphDraft
from engine.passes.rewriting import shape_of, tensor_type

VERSION: Final = 13  # of the nodes that are put in
SWAPPED, SWAPPED_APART = (0, 2, 1), (0, 1, 3, 2)


def split_heads(graph: Graph, ctx: PassContext) -> Graph:
    """Let products on merged axes work on separate ones."""
    walk = _Walk(graph, GraphDraft(graph, ctx))
    for node in ctx.each(graph.nodes):
        walk.visit(node)
    for name in graph.output_names:
        walk.merge(name)
    return walk.draft.result()


@dataclass
class _Walk:
    """One way through the nodes.

    Attributes:
        apart: Per name of three axes, the name of the same with four.
        owed: Of those the ones that no node gives any more, unless somebody asks.
        shapes: Shapes of new names.
    """

    graph: Graph
    draft: GraphDraft
    apart: dict[str, str] = field(default_factory=dict)
    owed: set[str] = field(default_factory=set)
    shapes: dict[str, Shape] = field(default_factory=dict)

    def visit(self, node: Node) -> None:
        """Put the node, or what does the same on four axes, into the draft."""
        rule = None if node.domain else getattr(self, f"_{node.op.lower()}", None)
        if rule is not None and rule(node):
            return
        for name in node.reads:
            self.merge(name)
        self.draft.nodes.append(node)

    def merge(self, name: str) -> None:
        """See to it that a value exists with merged axes."""
        if name not in self.owed:
            return
        self.owed.remove(name)
        fresh, constant = self.draft.fresh, self.draft.constant
        sizes, last, target = (fresh(f"{name}/{part}") for part in ("sizes", "last", "target"))
        places = constant(f"{name}/places", np.array([2, 3]))
        rest = constant(f"{name}/merged", np.array([-1]))
        for each, count in ((sizes, 4), (last, 2), (target, 3)):
            self.draft.types[each] = TensorType(DType.INT64, (count,))
        self.draft.nodes += [
            Node("Shape", (self.apart[name],), (sizes,), version=VERSION),
            Node("Gather", (sizes, places), (last,), {"axis": 0}, version=VERSION),
            Node("Concat", (rest, last), (target,), {"axis": 0}, version=VERSION),
            Node("Reshape", (self.apart[name], target), (name,), version=VERSION),
        ]

    def _reshape(self, node: Node) -> bool:
        """Note what merges; what goes back is the value itself."""
        source, result = node.inputs[0], node.outputs[0]
        before, after = self._shape(source), self._shape(result)
        if before is None or after is None:
            return False
        if len(before) == 4 and after == (before[0] * before[1], *before[2:]):
            self.apart[result] = source
            return False
        four = self.apart.get(source)
        if four is None or self._shape(four) != after:
            return False
        self.draft.nodes.append(Node("Identity", (four,), (result,), version=VERSION))
        return True

    def _transpose(self, node: Node) -> bool:
        if node.inputs[0] not in self.apart or node.attributes.get("perm") != SWAPPED:
            return False
        return self._instead(node, node.replace(attributes={"perm": SWAPPED_APART}))

    def _softmax(self, node: Node) -> bool:
        axis = node.attributes.get("axis", -1)
        if node.inputs[0] not in self.apart or node.version < 13 or axis not in (-1, 2):
            return False
        return self._instead(node, node.replace(attributes={"axis": -1}))

    def _matmul(self, node: Node) -> bool:
        shapes = [self._shape(self.apart.get(name, "")) for name in node.inputs]
        left, right = shapes
        if left is None or right is None or left[:2] != right[:2]:
            return False
        return self._instead(node, node)

    def _instead(self, node: Node, changed: Node) -> bool:
        """Put in a node that reads and gives four axes; what it gave is owed."""
        result = node.outputs[0]
        merged, first = self._shape(result), self._shape(self.apart[node.inputs[0]])
        if merged is None or first is None or len(merged) != 3:
            return False
        four = self.draft.fresh(f"{result}/apart")
        inputs = tuple(self.apart[name] for name in node.inputs)
        self.draft.nodes.append(changed.replace(inputs=inputs, outputs=(four,)))
        self.shapes[four] = (*first[:2], *merged[1:])
        kind = tensor_type(self.graph, result)
        assert kind is not None
        self.draft.types[four] = kind.with_shape(self.shapes[four])
        self.apart[result] = four
        self.owed.add(result)
        return True

    def _shape(self, name: str) -> Shape | None:
        return self.shapes.get(name) or shape_of(self.graph, name)
