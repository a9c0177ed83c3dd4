"""Conv + BatchNormalization, and Conv + a bias added per channel, become one Conv with other
weights.

The new weights are computed in float64 and rounded once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from engine.ir.graph import Array, Graph, Node
from engine.passes.context import PassContext
from engine.passes.matching import Match, View, rewrite_matches
from engine.passes.rewriting import fixed, is_single_use

EPSILON = 1e-5  # ONNX's default
STEPS = 4  # a Conv may be followed by a bias, a BatchNormalization and another bias


def fuse_conv_bn(graph: Graph, ctx: PassContext) -> Graph:
    """Fold what follows a Conv into its weights, as long as the weights are fixed and nobody else
    reads between.
    """
    for _ in range(STEPS):
        fused = rewrite_matches(graph, ctx, _recognise)
        if fused is graph:
            break
        graph = fused
    return graph


def _recognise(view: View, node: Node) -> Match | None:
    conv = _conv_before(view.graph, node)
    factors = None if conv is None else _affine(view.graph, node, conv, view.ctx)
    if conv is None or factors is None:
        return None
    return _folded(view, conv, node, *factors)


def _conv_before(graph: Graph, node: Node) -> Node | None:
    """Return the Conv with fixed weights that feeds this node alone."""
    if node.domain or node.op not in ("BatchNormalization", "Add"):
        return None
    for name in node.inputs[:2] if node.op == "Add" else node.inputs[:1]:
        conv = graph.producers.get(name)
        if conv is None or conv.op != "Conv" or conv.domain or not is_single_use(graph, name):
            continue
        if all(fixed(graph, n) is not None for n in conv.inputs[1:] if n):
            return conv
    return None


def _affine(
    graph: Graph, node: Node, conv: Node, ctx: PassContext
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the scale and shift per channel, in float64, that follow the Conv."""
    weight = fixed(graph, conv.inputs[1])
    assert weight is not None
    if node.op == "Add":
        shift = _channel_bias(graph, node, conv, weight)
        return None if shift is None else (np.ones(len(weight)), shift)
    return statistics(graph, node, len(weight), ctx)


def statistics(
    graph: Graph, node: Node, channels: int, ctx: PassContext
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the scale and shift per channel, in float64, of a BatchNormalization; None when they
    are not fixed, not finite, or made in training.
    """
    attributes = ctx.registry.find(node).complete(node)
    values = [fixed(graph, name) for name in node.inputs[1:5]]
    if not _is_inference(node, attributes) or any(v is None for v in values):
        return None
    gamma, beta, mean, variance = (np.asarray(v, np.float64) for v in values)
    if any(v.shape != (channels,) for v in (gamma, beta, mean, variance)):
        return None
    with np.errstate(all="ignore"):
        deviation = np.sqrt(variance + float(attributes.get("epsilon", EPSILON)))
        scale = gamma / deviation
        shift = beta - mean * scale
    # A variance that is zero or broken must keep giving what the unfused nodes give.
    return (scale, shift) if np.isfinite(scale).all() and np.isfinite(shift).all() else None


def _is_inference(node: Node, attributes: Any) -> bool:
    if any(node.outputs[1:]) or not attributes.get("spatial", 1):
        return False
    if node.version < 7:
        return bool(attributes.get("is_test", 0))
    return not attributes.get("training_mode", 0)


def _channel_bias(graph: Graph, node: Node, conv: Node, weight: Array) -> np.ndarray | None:
    other = node.inputs[1] if node.inputs[0] == conv.outputs[0] else node.inputs[0]
    bias = fixed(graph, other)
    if bias is None or bias.ndim > weight.ndim or bias.dtype != weight.dtype:
        return None
    aligned = (1,) * (weight.ndim - bias.ndim) + bias.shape  # (1, C, 1, 1)
    channels = len(weight)
    if aligned[1] not in (1, channels) or bias.size != aligned[1]:
        return None
    flat = bias.reshape(-1).astype(np.float64)
    return np.broadcast_to(flat, (channels,)).copy() if np.isfinite(flat).all() else None


def _folded(
    view: View, conv: Node, node: Node, scale: np.ndarray, shift: np.ndarray
) -> Match | None:
    weight = fixed(view.graph, conv.inputs[1])
    old_bias = fixed(view.graph, conv.inputs[2]) if len(conv.inputs) > 2 else None
    assert weight is not None
    columns = scale.reshape(-1, *(1,) * (weight.ndim - 1))  # (M, 1, 1, 1)
    before = 0.0 if old_bias is None else old_bias.astype(np.float64)
    with np.errstate(all="ignore"):  # what overflows fp16 is told by the check below
        new_weight = (weight.astype(np.float64) * columns).astype(weight.dtype)
        new_bias = (before * scale + shift).astype(weight.dtype)
    if not (np.isfinite(new_weight).all() and np.isfinite(new_bias).all()):
        return None
    names = (view.fresh(f"{conv.inputs[1]}/folded"), view.fresh(f"{conv.outputs[0]}/bias"))
    fused = conv.replace(inputs=(conv.inputs[0], *names), outputs=node.outputs[:1])
    return Match(fused, [conv], dict(zip(names, (new_weight, new_bias), strict=True)))
