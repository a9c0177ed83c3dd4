"""LayerNormalization and RMSNormalization that exporters write out.

    torch       (x - mean) / sqrt(mean((x - mean)^2) + eps) * scale + bias
    tf2onnx     x * g + (bias - mean * g)    with g = scale / sqrt(variance + eps)
    Llama, T5   x / sqrt(mean(x^2) + eps) * scale

Squares are powers or products, roots are divided by or inverted, scale and bias may be absent, and
for narrow floats parts may be cast to float32 and back. Left alone: axes that are not the last
ones, an epsilon that is not fixed, a scale or bias of another shape than the normalized axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.dtypes import DType
from engine.ir.graph import Array, Attribute, Graph, Node
from engine.ir.types import TensorType
from engine.passes.context import PassContext
from engine.passes.matching import Match, View, as_parameter, rewrite_matches
from engine.passes.rewriting import shape_of, tensor_type

LAYER_NORM, RMS_NORM = 17, 23  # opset versions that brought the operators


def fuse_norms(graph: Graph, ctx: PassContext) -> Graph:
    """Replace normalizations over the last axes by their operators."""
    return rewrite_matches(graph, ctx, _recognise)


@dataclass
class Inverse:
    """1 / sqrt(mean of squares + epsilon), over `axes`."""

    squared: str
    axes: tuple[int, ...]
    epsilon: float
    nodes: list[Node]


@dataclass
class Standard:
    """x over its deviation; with a mean, the mean is taken off before."""

    x: str
    axes: tuple[int, ...]
    epsilon: float
    nodes: list[Node]
    has_mean: bool
    scale: str | None = None
    bias: str | None = None


def _recognise(view: View, node: Node) -> Match | None:
    """Try the node as the end of the longest form first."""
    if node.op == "Add" and len(node.inputs) == 2:
        found = _with_bias(view, node)
    elif node.op in ("Mul", "Div"):
        found = _scaled(view, node.outputs[0])
    elif node.op == "Cast":
        # Some exporters scale in float32 and cast at the very end.
        name, casts = view.uncast(node.outputs[0])
        found = _scaled(view, name) if casts else None
        if found is not None:
            found.nodes += casts
    else:
        return None
    return None if found is None else _match(view, node, found)


def _with_bias(view: View, node: Node) -> Standard | None:
    for left, bias in (node.inputs, node.inputs[::-1]):
        name, casts = view.uncast(left)
        if view.producer(name, "Mul", "Div") is None:
            continue
        found = _scaled(view, name)
        if found is not None and found.has_mean:
            found.bias = bias
            found.nodes += [node, *casts]
            return found
        factored = _factored(view, node, name, bias)
        if factored is not None:
            return factored
    return None


def _scaled(view: View, name: str) -> Standard | None:
    """Find x over its deviation, maybe times a scale, in a product."""
    quotient = _quotient(view, name)
    if quotient is not None:
        return quotient
    product = view.product(name)
    if product.coefficient != 1.0 or not 2 <= len(product.names) <= 3 or not product.nodes:
        return None
    for i, each in enumerate(product.names):
        rest = [n for k, n in enumerate(product.names) if k != i]
        found = _quotient(view, view.source(each))
        if found is not None and len(rest) == 1:
            found.scale = rest[0]
            found.nodes += [*product.nodes, *view.uncast(each)[1]]
            return found
        inverse = _inverse(view, each)
        if inverse is None:
            continue
        for k, x in enumerate(rest):
            standard = _standard(view, x, inverse)
            if standard is not None:
                others = [n for j, n in enumerate(rest) if j != k]
                standard.scale = others[0] if others else None
                standard.nodes += product.nodes
                return standard
    return None


def _quotient(view: View, name: str) -> Standard | None:
    """x / sqrt(...)."""
    node = view.producer(name, "Div")
    inverse = node and _root(view, node.inputs[1])
    found = inverse and node and _standard(view, node.inputs[0], inverse)
    if not found or node is None:
        return None
    found.nodes.append(node)
    return found


def _standard(view: View, name: str, inverse: Inverse) -> Standard | None:
    """Match what is divided with what was squared, and see whether a mean was taken off."""
    if view.source(name) != view.source(inverse.squared):
        return None
    source = view.source(name)
    centred = _centred(view, source)
    if centred is not None and centred[1] == inverse.axes:
        x, axes, nodes = centred
        casts = [*view.uncast(name)[1], *view.uncast(inverse.squared)[1]]
        return Standard(x, axes, inverse.epsilon, [*inverse.nodes, *nodes, *casts], True)
    return Standard(name, inverse.axes, inverse.epsilon, list(inverse.nodes), False)


def _centred(view: View, name: str) -> tuple[str, tuple[int, ...], list[Node]] | None:
    """Return (x, axes, nodes) of x minus its mean."""
    minus = view.producer(name, "Sub")
    if minus is None:
        return None
    mean_name, casts = view.uncast(minus.inputs[1])
    mean = view.producer(mean_name, "ReduceMean")
    axes = None if mean is None else _axes(view, mean)
    if mean is None or axes is None or view.source(mean.inputs[0]) != view.source(minus.inputs[0]):
        return None
    return minus.inputs[0], axes, [minus, *casts, mean]


def _inverse(view: View, name: str) -> Inverse | None:
    """Reciprocal(Sqrt(...)) or 1 / Sqrt(...)."""
    name, casts = view.uncast(name)
    node = view.producer(name, "Reciprocal", "Div")
    if node is None or (node.op == "Div" and view.number(node.inputs[0]) != 1.0):
        return None
    found = _root(view, node.inputs[-1])
    if found is not None:
        found.nodes += [*casts, node]
    return found


def _root(view: View, name: str) -> Inverse | None:
    """Sqrt(mean of squares + epsilon)."""
    name, casts = view.uncast(name)
    root = view.producer(name, "Sqrt")
    total = root and view.producer(view.source(root.inputs[0]), "Add")
    parts = total and view.split(total, lambda n: view.number(n) is not None)
    if root is None or total is None or not parts:
        return None
    mean_name, more = view.uncast(parts[1])
    mean = view.producer(mean_name, "ReduceMean")
    axes = None if mean is None else _axes(view, mean)
    epsilon = view.number(parts[0])
    squared = mean and _squared(view, mean.inputs[0])
    if mean is None or axes is None or epsilon is None or not squared:
        return None
    casts = [*casts, *view.uncast(root.inputs[0])[1], *more]
    return Inverse(squared[0], axes, epsilon, [root, total, mean, *casts, *squared[1]])


def _squared(view: View, name: str) -> tuple[str, list[Node]] | None:
    name, casts = view.uncast(name)
    node = view.producer(name, "Pow", "Mul")
    if node is None:
        return None
    is_square = view.number(node.inputs[1]) == 2.0 if node.op == "Pow" else _is_twice(node)
    return (node.inputs[0], [*casts, node]) if is_square else None


def _is_twice(node: Node) -> bool:
    return len(node.inputs) == 2 and node.inputs[0] == node.inputs[1]


def _factored(view: View, node: Node, product: str, rest: str) -> Standard | None:
    """x * g + (bias - mean * g), with g the scale over the deviation."""
    minus = view.producer(rest, "Sub")
    first = view.producer(product, "Mul")
    second = minus and view.producer(minus.inputs[1], "Mul")
    if minus is None or first is None or second is None:
        return None
    for x, g in (first.inputs, first.inputs[::-1]):
        found = view.split(second, lambda name, g=g: name == g)  # type: ignore[misc]
        mean = found and view.producer(found[1], "ReduceMean")
        scaled = mean and _inverse_times_scale(view, g)
        if not scaled or mean is None or mean.inputs[0] != x:
            continue
        inverse, scale, nodes = scaled
        centred = _centred(view, view.source(inverse.squared))
        if centred is None or centred[0] != x or _axes(view, mean) != inverse.axes:
            continue
        inside = [node, first, minus, second, mean, *nodes, *inverse.nodes, *centred[2]]
        return Standard(x, inverse.axes, inverse.epsilon, inside, True, scale, minus.inputs[0])
    return None


def _inverse_times_scale(view: View, g: str) -> tuple[Inverse, str | None, list[Node]] | None:
    whole = _inverse(view, g)
    if whole is not None:
        return whole, None, []
    node = view.producer(g, "Mul")
    for each, scale in () if node is None else (node.inputs, node.inputs[::-1]):
        inverse = _inverse(view, each)
        if inverse is not None and node is not None:
            return inverse, scale, [node]
    return None


def _axes(view: View, node: Node) -> tuple[int, ...] | None:
    """Return the axes of a mean that keeps them, if they are the last ones."""
    axes, shape = view.axes(node), shape_of(view.graph, node.inputs[0])
    if axes is None or shape is None or not view.attribute(node, "keepdims"):
        return None
    return axes if axes == tuple(range(axes[0], len(shape))) else None


def _match(view: View, node: Node, found: Standard) -> Match | None:
    result = tensor_type(view.graph, node.outputs[0])
    x = None if result is None else view.typed(found.x, result.dtype)
    if result is None or x is None or not view.same_type(x, node.outputs[0]):
        return None
    assert result.shape is not None
    shape = result.shape[found.axes[0] :]
    constants: dict[str, Array] = {}
    scale = _parameter(view, node, found.scale, shape, result.dtype, constants)
    if scale is None:
        return None
    inputs = [x, scale]
    if found.bias is not None:
        bias = _parameter(view, node, found.bias, shape, result.dtype, constants)
        if bias is None:
            return None
        inputs.append(bias)
    op, version = (
        ("LayerNormalization", LAYER_NORM)
        if found.has_mean
        else (
            "RMSNormalization",
            RMS_NORM,
        )
    )
    attributes: dict[str, Attribute] = {"axis": found.axes[0], "epsilon": found.epsilon}
    fused = Node(op, tuple(inputs), node.outputs, attributes, version=version, name=node.name)
    return Match(fused, [n for n in found.nodes if n is not node], constants)


def _parameter(
    view: View,
    node: Node,
    name: str | None,
    shape: Sequence[object],
    dtype: DType,
    constants: dict[str, Array],
) -> str | None:
    """Return the name of a scale or bias of exactly this shape; ones where there is none."""
    if name is not None and tensor_type(view.graph, name) == TensorType(dtype, tuple(shape)):  # type: ignore[arg-type]
        return name
    if not all(isinstance(dim, int) for dim in shape):
        return None
    sizes: tuple[int, ...] = tuple(shape)  # type: ignore[arg-type]
    if math.prod(sizes) * dtype.itemsize > view.ctx.limits.fold_bytes:
        return None
    if name is None:
        value: Array | None = np.ones(sizes, dtype.numpy)
    else:
        value = as_parameter(view, view.source(name), sizes, dtype)
    if value is None:
        return None
    fresh = view.fresh(f"{node.outputs[0]}/{'ones' if name is None else 'parameter'}")
    constants[fresh] = value
    return fresh
