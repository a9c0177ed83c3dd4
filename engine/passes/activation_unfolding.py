"""FusedConv and FusedGemm of com.microsoft become Conv or Gemm, and what they have fused.

A file that ONNX Runtime has optimised holds them. Taken apart they meet every other pass, and what
follows a contraction is fused with it again by the engine's own rules.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.dtypes import DType
from engine.ir.graph import Attribute, Graph, Node
from engine.passes.context import PassContext
from engine.passes.graph_draft import GraphDraft
from engine.passes.rewriting import tensor_type

MICROSOFT: Final = "com.microsoft"
VERSIONS: Final = {"Conv": 11, "Gemm": 13}
GEMM_NUMBERS: Final = ("activation_alpha", "activation_beta", "activation_gamma")
FUSED: Final = frozenset({"activation", "activation_params", *GEMM_NUMBERS})
# Activations by their name in lower case: operator, version, and the attributes that their
# parameters become. All have to be there: defaults are the fused operator's own.
ACTIVATIONS: Final[dict[str, tuple[str, int, tuple[str, ...]]]] = {
    "relu": ("Relu", 14, ()),
    "sigmoid": ("Sigmoid", 13, ()),
    "tanh": ("Tanh", 13, ()),
    "softplus": ("Softplus", 1, ()),
    "softsign": ("Softsign", 1, ()),
    "hardswish": ("HardSwish", 14, ()),
    "leakyrelu": ("LeakyRelu", 16, ("alpha",)),
    "elu": ("Elu", 6, ("alpha",)),
    "thresholdedrelu": ("ThresholdedRelu", 10, ("alpha",)),
    "hardsigmoid": ("HardSigmoid", 6, ("alpha", "beta")),
}
CLIP_VERSION, ADD_VERSION = 13, 14


def unfold_activations(graph: Graph, ctx: PassContext) -> Graph:
    """Replace what can be."""
    if not any(node.domain == MICROSOFT for node in graph.nodes):
        return graph
    work = _Rewrite(graph, ctx)
    for node in ctx.each(graph.nodes):
        if not work.replace(node):
            work.nodes.append(node)
    return work.result()


class _Rewrite(GraphDraft):
    """The new graph under construction."""

    def replace(self, node: Node) -> bool:
        """Write a node's parts; whether it has any."""
        op = node.op.removeprefix("Fused")
        if node.domain != MICROSOFT or op == node.op or op not in VERSIONS:
            return False
        kind = tensor_type(self.graph, node.outputs[0])
        ends = self._activation(node)
        # Narrow floats would be rounded in between.
        if ends is None or kind is None or kind.dtype is not DType.FLOAT32:
            return False
        own: dict[str, Attribute] = {k: v for k, v in node.attributes.items() if k not in FUSED}
        parts = [Node(op, _present(node.inputs[:3]), (), own, version=VERSIONS[op])]
        if len(node.inputs) > 3 and node.inputs[3]:
            parts.append(Node("Add", ("", node.inputs[3]), (), version=ADD_VERSION))
        parts += ends
        name = ""
        for number, part in enumerate(parts):
            inputs = (name, *part.inputs[1:]) if number else part.inputs
            is_last = number == len(parts) - 1
            name = node.outputs[0] if is_last else self.fresh(f"{node.outputs[0]}/{part.op}")
            self.types[name] = kind
            self.nodes.append(part.replace(inputs=inputs, outputs=(name,), name=node.name))
        return True

    def _activation(self, node: Node) -> list[Node] | None:
        """Return the node of an activation, none for none; None for one that stays fused."""
        name = str(node.attributes.get("activation") or "").lower()
        if not name:
            return []
        numbers = self._numbers(node)
        if name == "clip":
            low, high = (*numbers, None, None)[:2]
            bounds = [
                "" if x is None else self.constant("bound", np.array(x, np.float32))
                for x in (low, high)
            ]
            return [Node("Clip", _present(("x", *bounds)), (), version=CLIP_VERSION)]
        found = ACTIVATIONS.get(name)
        if found is None:
            return None
        op, version, wanted = found
        given = [x for x in numbers if x is not None]
        if len(given) != len(wanted):
            return None
        own: dict[str, Attribute] = dict(zip(wanted, given, strict=True))
        return [Node(op, ("x",), (), own, version=version)]

    def _numbers(self, node: Node) -> list[float | None]:
        """Return the activation's parameters in order."""
        values = node.attributes.get("activation_params", ())
        listed = [float(x) for x in values] if isinstance(values, tuple | list) else []
        named = [node.attributes.get(name) for name in GEMM_NUMBERS]
        found: list[float | None] = [
            float(x) if isinstance(x, float | int) else None for x in named
        ]
        return [*listed] or found


def _present(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names without those at the end that are absent."""
    kept = list(names)
    while kept and not kept[-1]:
        kept.pop()
    return tuple(kept)
