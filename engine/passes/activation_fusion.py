"""Activations that exporters write out: Gelu, Swish (SiLU), HardSwish, Mish.

All are a number times x times a function of x, so a product is written flat and its parts are
looked at, in whatever order and grouping they were multiplied:

    Gelu        0.5 * x * (1 + erf(x / sqrt 2)), or the form with tanh
    Swish       x * sigmoid(alpha * x)
    HardSwish   x * clip(x + 3, 0, 6) / 6, or x * HardSigmoid(x) of 1/6 and 1/2
    Mish        x * tanh(softplus(x))

Left alone: constants that are not these numbers, rounded to their type.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from engine.ir.graph import Attribute, Graph, Node
from engine.passes.context import PassContext
from engine.passes.matching import Match, View, rewrite_matches
from engine.passes.rewriting import tensor_type

CUBIC = 0.044715
SLOPE = math.sqrt(2 / math.pi)


@dataclass(frozen=True)
class Found:
    """An activation's name, its attributes, the version to ask for, the nodes it was made of."""

    op: str
    version: int
    nodes: Sequence[Node]
    attributes: tuple[tuple[str, Attribute], ...] = ()


def fuse_activations(graph: Graph, ctx: PassContext) -> Graph:
    """Replace activations that are written out."""
    return rewrite_matches(graph, ctx, _recognise)


def _recognise(view: View, node: Node) -> Match | None:
    if node.op not in ("Mul", "Div") or len(node.outputs) != 1:
        return None
    result = tensor_type(view.graph, node.outputs[0])
    product = view.product(node.outputs[0])
    if result is None or not result.dtype.is_float or len(product.names) != 2:
        return None
    if not product.nodes or product.nodes[0] is not node:
        return None
    for x, other in (product.names, product.names[::-1]):
        name = view.typed(x, result.dtype)
        function, casts = view.uncast(other)
        producer = view.graph.producers.get(function)
        if name is None or producer is None or producer.domain:
            continue
        rule = RULES.get(producer.op)
        found = rule and rule(view, view.source(x), producer, product.coefficient)
        if not found or not view.same_type(name, node.outputs[0]):
            continue
        fused = Node(
            found.op,
            (name,),
            node.outputs,
            dict(found.attributes),
            version=found.version,
            name=node.name,
        )
        return Match(fused, [*product.nodes[1:], *casts, *found.nodes])
    return None


def _gelu(view: View, x: str, node: Node, coefficient: float) -> Found | None:
    """0.5 * x * (1 + ...)."""
    inner = view.with_number(node, 1.0)
    if inner is None or not view.is_near(coefficient, 0.5, node.outputs[0]):
        return None
    name, casts = view.uncast(inner)
    function = view.producer(name, "Erf", "Tanh")
    if function is None:
        return None
    if function.op == "Erf":
        argument = _multiple(view, x, function.inputs[0], math.sqrt(0.5))
        approximate = "none"
    else:
        argument = _cubic(view, x, function.inputs[0])
        approximate = "tanh"
    if argument is None:
        return None
    nodes = [node, *casts, function, *argument]
    return Found("Gelu", 20, nodes, (("approximate", approximate),))


def _multiple(view: View, x: str, name: str, factor: float) -> list[Node] | None:
    """Return the nodes that multiply x by a number; None if that is not what they do."""
    product = view.product(name)
    names = [view.source(n) for n in product.names]
    if names != [x] or not view.is_near(product.coefficient, factor, name):
        return None
    return product.nodes


def _cubic(view: View, x: str, name: str) -> list[Node] | None:
    """sqrt(2 / pi) * (x + 0.044715 x^3), or with x taken out of the sum."""
    product = view.product(name)
    names = [view.source(n) for n in product.names]
    if not view.is_near(product.coefficient, SLOPE, name) or len(names) > 2:
        return None
    outside = names.count(x)
    sums = [n for n in names if n != x]
    total = view.producer(sums[0], "Add") if len(sums) == 1 else None
    if total is None or outside != len(names) - 1 or len(total.inputs) != 2:
        return None
    for first, second in (total.inputs, total.inputs[::-1]):
        is_one = view.is_near(view.number(first), 1.0, name)
        starts = is_one if outside else view.source(first) == x
        power = _power(view, x, second, 3 - outside) if starts else None
        if power is not None:
            casts = view.uncast(product.names[names.index(sums[0])])[1]
            return [*product.nodes, *casts, total, *power]
    return None


def _power(view: View, x: str, name: str, degree: int) -> list[Node] | None:
    """Return the nodes of 0.044715 * x^degree."""
    product = view.product(name)
    nodes = list(product.nodes)
    if not view.is_near(product.coefficient, CUBIC, name):
        return None
    for each in product.names:
        each, casts = view.uncast(each)
        power = view.producer(each, "Pow")
        if each == x:
            degree -= 1
        elif power is not None and view.source(power.inputs[0]) == x:
            exponent = view.number(power.inputs[1])
            if exponent not in (2.0, 3.0):
                return None
            degree -= int(exponent)
            nodes += [*casts, power]
        else:
            return None
    return nodes if degree == 0 else None


def _swish(view: View, x: str, node: Node, coefficient: float) -> Found | None:
    """x * sigmoid(alpha * x)."""
    if coefficient != 1.0:
        return None
    product = view.product(node.inputs[0])
    if [view.source(n) for n in product.names] != [x] or not math.isfinite(product.coefficient):
        return None
    alpha = product.coefficient
    return Found("Swish", 24, [node, *product.nodes], (("alpha", alpha),) if alpha != 1.0 else ())


def _hard_sigmoid(view: View, x: str, node: Node, coefficient: float) -> Found | None:
    """x * HardSigmoid(x)."""
    alpha, beta = view.attribute(node, "alpha"), view.attribute(node, "beta")
    if coefficient != 1.0 or view.source(node.inputs[0]) != x:
        return None
    is_sixth = isinstance(alpha, float) and abs(alpha - 1 / 6) < 1e-7
    return Found("HardSwish", 14, [node]) if is_sixth and beta == 0.5 else None


def _clipped(view: View, x: str, node: Node, coefficient: float) -> Found | None:
    """x * clip(x + 3, 0, 6) / 6."""
    if not view.is_near(coefficient, 1 / 6, node.outputs[0]):
        return None
    bounds = _clip(view, node)
    if bounds is None or bounds[1:3] != (0.0, 6.0):
        return None
    name, casts = view.uncast(bounds[0])
    shift = view.producer(name, "Add")
    start = view.with_number(shift, 3.0)
    if shift is None or start is None or view.source(start) != x:
        return None
    return Found("HardSwish", 14, [*bounds[3], *casts, shift])


def _clip(view: View, node: Node) -> tuple[str, float | None, float | None, list[Node]] | None:
    """Return (what is clipped, low, high, nodes) of a Clip, or of a Min of a Max or a Relu."""
    if node.op == "Clip":
        if len(node.inputs) == 1:
            low, high = view.attribute(node, "min"), view.attribute(node, "max")
            fixed = (low, high) if isinstance(low, float) and isinstance(high, float) else None
            return (node.inputs[0], *fixed, [node]) if fixed else None
        numbers = [view.number(name) if name else None for name in (*node.inputs[1:], "")[:2]]
        return node.inputs[0], numbers[0], numbers[1], [node]
    found = view.split(node, lambda name: view.number(name) is not None)
    if found is None:
        return None
    high = view.number(found[0])
    inner = view.producer(found[1], "Max", "Relu")
    if inner is None:
        return None
    if inner.op == "Relu":
        return inner.inputs[0], 0.0, high, [node, inner]
    lower = view.split(inner, lambda name: view.number(name) is not None)
    return None if lower is None else (lower[1], view.number(lower[0]), high, [node, inner])


def _mish(view: View, x: str, node: Node, coefficient: float) -> Found | None:
    """x * tanh(softplus(x))."""
    inner = view.producer(view.source(node.inputs[0]), "Softplus")
    if coefficient != 1.0 or inner is None or view.source(inner.inputs[0]) != x:
        return None
    return Found("Mish", 18, [node, *view.uncast(node.inputs[0])[1], inner])


Rule = Callable[[View, str, Node, float], Found | None]
RULES: dict[str, Rule] = {
    "Add": _gelu,
    "Sigmoid": _swish,
    "HardSigmoid": _hard_sigmoid,
    "Clip": _clipped,
    "Min": _clipped,
    "Tanh": _mish,
}
