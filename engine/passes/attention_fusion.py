"""Attention: product of queries and keys, anything elementwise on the scores, softmax, product with
the values, becomes one `millrace.Attention`.

Absorbed as well: transpositions of heads on all four sides, scales on queries and keys (both
exporters of torch split the scale between them), casts around the softmax, and `Where(IsNaN(w), 0,
w)`, by which torch guards queries that may look nowhere. Left alone: scores or weights that
somebody else reads, softmax over another axis than the last.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.dtypes import FLOATS
from engine.ir.expr import argument, cast
from engine.ir.expr_text import arguments_of, read_expr, substitute, write_expr
from engine.ir.graph import Graph, Node
from engine.ops.fused import FUSED_DOMAIN, FUSED_VERSION
from engine.passes.composition import compose, grow, is_elementwise
from engine.passes.context import PassContext
from engine.passes.matching import MAX_LINKS, Match, View, rewrite_matches
from engine.passes.rewriting import is_single_use, shape_of, tensor_type


def fuse_attention(graph: Graph, ctx: PassContext) -> Graph:
    """Replace what computes attention by one node each."""
    return rewrite_matches(graph, ctx, _recognise)


PRODUCTS = frozenset({("", "MatMul"), ("com.microsoft", "FusedMatMul")})


@dataclass
class Operand:
    """An input of a product: the value behind transpositions and a scale.

    Attributes:
        name: The value itself.
        perm: How it is transposed before the product.
        factor: What it is multiplied by.
    """

    name: str
    perm: tuple[int, ...]
    factor: float = 1.0


@dataclass
class Weights:
    """What leads from the scores to the weights."""

    softmax: Node
    nodes: list[Node] = field(default_factory=list)
    safe: bool = False


def _recognise(view: View, node: Node) -> Match | None:
    """Look for attention that ends in this MatMul, or in a Transpose of it."""
    end, inside = node, list[Node]()
    if node.op == "Transpose":
        product = view.producer(node.inputs[0], "MatMul")
        if product is None or not view.is_inner(product):
            return None
        end, inside = product, [product]
    elif node.op != "MatMul" or _transposed_later(view, node):
        return None
    weights = _weights(view, end.inputs[0])
    if weights is None:
        return None
    scores = _scores(view, weights.softmax.inputs[0])
    if scores is None:
        return None
    product, chain = scores
    return _match(view, node, end, product, chain, weights, inside)


def _transposed_later(view: View, node: Node) -> bool:
    """Whether a Transpose follows that can be part of the match."""
    name = node.outputs[0]
    readers = view.graph.consumers.get(name, ())
    return is_single_use(view.graph, name) and readers[0].op == "Transpose"


def _weights(view: View, name: str) -> Weights | None:
    """Walk from the weights up to the softmax."""
    name, nodes = view.uncast(name)
    guard = view.producer(name, "Where")
    safe = False
    if guard is not None:
        test = view.producer(guard.inputs[0], "IsNaN")
        if test is None or test.inputs[0] != guard.inputs[2] or not _is_zero(view, guard.inputs[1]):
            return None
        nodes += [guard, test]
        name, safe = guard.inputs[2], True
        name, casts = view.uncast(name)
        nodes += casts
    softmax = view.producer(name, "Softmax")
    shape = softmax and shape_of(view.graph, softmax.inputs[0])
    if softmax is None or not shape:
        return None
    axis = view.attribute(softmax, "axis")
    stated = -1 if axis is None and softmax.version >= 13 else 1 if axis is None else axis
    if stated not in (-1, len(shape) - 1):
        return None
    return Weights(softmax, [*nodes, softmax], safe)


def _is_zero(view: View, name: str) -> bool:
    return view.number(name) == 0.0


def _scores(view: View, name: str) -> tuple[Node, list[Node]] | None:
    """Return the product of queries and keys, and the elementwise nodes between it and `name`."""
    graph = view.graph
    product = _product(view, name)
    if product is not None:
        return product, []
    root = graph.producers.get(name)
    if root is None or not is_elementwise(graph, root, view.ctx) or not is_single_use(graph, name):
        return None
    chain = grow(graph, root, view.ctx)
    members = {id(n) for n in chain}
    shape = shape_of(graph, name)
    for each in (n for member in chain for n in member.inputs):
        product = _product(view, each)
        if product is None or shape_of(graph, each) != shape or each in graph.output_set:
            continue
        if all(id(r) in members for r in graph.consumers.get(each, ())):
            return product, chain
    return None


def _product(view: View, name: str) -> Node | None:
    """Return the MatMul that gives a name, or a FusedMatMul of ONNX Runtime's that is like one."""
    node = view.graph.producers.get(name)
    if node is None or (node.domain, node.op) not in PRODUCTS:
        return None
    other = ("transA", "transBatchA", "transBatchB")
    return None if any(node.attributes.get(key) for key in other) else node


def _match(
    view: View,
    node: Node,
    end: Node,
    product: Node,
    chain: Sequence[Node],
    weights: Weights,
    inside: list[Node],
) -> Match | None:
    graph = view.graph
    q, k = (_operand(view, name, scaled=True) for name in product.inputs)
    v = _operand(view, end.inputs[1], scaled=False)
    if q is None or k is None or v is None:
        return None
    kinds = [tensor_type(graph, each.name) for each in (q, k, v)]
    result = tensor_type(graph, node.outputs[0])
    if result is None or any(kind is None or kind.dtype is not result.dtype for kind in kinds):
        return None
    alpha = product.attributes.get("alpha", 1.0)
    assert isinstance(alpha, float | int)
    composed = _expression(view, product, chain, q.factor * k.factor * alpha)
    if composed is None or result.dtype not in FLOATS:
        return None
    text, extras = composed
    # Behind its own transposition K is (..., D, L); the operator takes (..., L, D).
    lies = product.attributes.get("transB")
    perm_k = k.perm if lies else (*k.perm[:-2], k.perm[-1], k.perm[-2])
    perms = {"perm_q": q.perm, "perm_k": perm_k, "perm_v": v.perm}
    attributes: dict[str, object] = {key: _or_nothing(perm) for key, perm in perms.items()}
    if end is not node:
        attributes["perm_y"] = _perm_of(view, node)
    attributes |= {"scores": text, "safe": int(weights.safe)}
    fused = Node(
        op="Attention",
        inputs=(q.name, k.name, v.name, *extras),
        outputs=node.outputs,
        attributes={key: value for key, value in attributes.items() if value not in ((), 0)},  # type: ignore[misc]
        domain=FUSED_DOMAIN,
        version=FUSED_VERSION,
        name=end.name,
    )
    return Match(fused, [*inside, *weights.nodes, *chain, product])


def _operand(view: View, name: str, scaled: bool) -> Operand | None:
    """Look through transpositions and, where a scale may move to the scores, fixed factors."""
    shape = shape_of(view.graph, name)
    if shape is None or len(shape) < 2:
        return None
    found = Operand(name, tuple(range(len(shape))))
    for _ in range(MAX_LINKS):
        node = view.producer(found.name, "Transpose", *(("Mul", "Div") if scaled else ()))
        if node is None:
            return found
        if node.op == "Transpose":
            before = _perm_of(view, node)
            found = Operand(node.inputs[0], tuple(before[i] for i in found.perm), found.factor)
            continue
        factor = _scaled(view, node)
        if factor is None:
            return found
        found = Operand(factor[0], found.perm, found.factor * factor[1])
    return found


def _scaled(view: View, node: Node) -> tuple[str, float] | None:
    """Return (value, factor) of a product or quotient with a number that changes no shape."""
    if node.op == "Div":
        number = view.number(node.inputs[1])
        name, factor = node.inputs[0], 1 / number if number else None
    else:
        found = view.split(node, lambda n: view.number(n) is not None)
        name, factor = (found[1], view.number(found[0])) if found else ("", None)
    if factor is None or not math.isfinite(factor) or not view.same_type(name, node.outputs[0]):
        return None
    return name, factor


def _expression(
    view: View, product: Node, chain: Sequence[Node], factor: float
) -> tuple[str, list[str]] | None:
    graph, name = view.graph, product.outputs[0]
    kind = tensor_type(graph, name)
    assert kind is not None
    compute = kind.dtype.compute
    x = argument(0, compute)
    if not chain:
        return write_expr(x if factor == 1.0 else x * factor), []
    composed = compose(graph, chain, view.ctx, head=name)
    if composed is None:
        return None
    expr, names = composed
    if expr.op == "cast" and expr.args[0].dtype is compute:
        expr = expr.args[0]  # nothing is rounded before the softmax
    last = tensor_type(graph, chain[-1].outputs[0])
    if last is None or last.dtype.compute is not compute:
        return None
    expr = cast(expr, compute)
    if factor != 1.0:
        used = read_expr(write_expr(expr))
        kinds = {int(n.payload or 0): n.dtype for n in used.walk() if n.op == "arg"}
        others = [argument(i, kinds.get(i, compute)) for i in range(1, arguments_of(used))]
        expr = substitute(used, [x * factor, *others])
    return write_expr(expr), names


def _perm_of(view: View, node: Node) -> tuple[int, ...]:
    stated = view.attribute(node, "perm")
    if isinstance(stated, tuple) and stated:
        return stated
    return tuple(reversed(range(len(shape_of(view.graph, node.inputs[0]) or ()))))


def _or_nothing(perm: tuple[int, ...]) -> tuple[int, ...]:
    return () if perm == tuple(range(len(perm))) else perm
