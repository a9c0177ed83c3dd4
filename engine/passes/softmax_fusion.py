"""Softmax and LogSoftmax that exporters write out.

    Softmax       e / sum(e)           with e = exp(x - max(x))
    LogSoftmax    d - log(sum(exp d))  with d = x - max(x); x - ReduceLogSumExp(x)

Left alone: exp(x) / sum(exp(x)) without the maximum, which overflows where a softmax does not, and
sums over several axes.
"""

from __future__ import annotations

from engine.ir.graph import Graph, Node
from engine.passes.context import PassContext
from engine.passes.matching import Match, View, rewrite_matches

VERSION = 13  # from here on, along one axis


def fuse_softmax(graph: Graph, ctx: PassContext) -> Graph:
    """Replace softmax over one axis by its operator."""
    return rewrite_matches(graph, ctx, _recognise)


def _recognise(view: View, node: Node) -> Match | None:
    if node.op == "Sub":
        return _log_softmax(view, node)
    if node.op == "Div":
        return _softmax(view, node, node.inputs[0], node.inputs[1], [])
    if node.op != "Mul":
        return None
    for e, other in (node.inputs, node.inputs[::-1]):
        inverse = view.producer(other, "Reciprocal")
        found = inverse and _softmax(view, node, e, inverse.inputs[0], [inverse])
        if found:
            return found
    return None


def _softmax(view: View, node: Node, e: str, total: str, inside: list[Node]) -> Match | None:
    exp, added = view.producer(e, "Exp"), view.producer(total, "ReduceSum")
    if exp is None or added is None or added.inputs[0] != e:
        return None
    shifted = _shifted(view, exp.inputs[0])
    if shifted is None or _axis(view, added) != shifted[1]:
        return None
    x, axis, nodes = shifted
    return _match(view, node, "Softmax", x, axis, [*inside, exp, added, *nodes])


def _log_softmax(view: View, node: Node) -> Match | None:
    d, subtracted = node.inputs
    whole = view.producer(subtracted, "ReduceLogSumExp")
    if whole is not None:
        axis = _axis(view, whole)
        if axis is None or whole.inputs[0] != d:
            return None
        return _match(view, node, "LogSoftmax", d, axis, [whole])
    log = view.producer(subtracted, "Log")
    added = log and view.producer(log.inputs[0], "ReduceSum")
    exp = added and view.producer(added.inputs[0], "Exp")
    shifted = _shifted(view, d)
    if log is None or added is None or exp is None or shifted is None or exp.inputs[0] != d:
        return None
    x, axis, nodes = shifted
    if _axis(view, added) != axis:
        return None
    return _match(view, node, "LogSoftmax", x, axis, [log, added, exp, *nodes])


def _shifted(view: View, name: str) -> tuple[str, int, list[Node]] | None:
    """Return (x, axis, nodes) of x minus its maximum."""
    minus = view.producer(name, "Sub")
    top = minus and view.producer(minus.inputs[1], "ReduceMax")
    if minus is None or top is None or top.inputs[0] != minus.inputs[0]:
        return None
    axis = _axis(view, top)
    return None if axis is None else (minus.inputs[0], axis, [minus, top])


def _axis(view: View, node: Node) -> int | None:
    axes = view.axes(node)
    return axes[0] if axes and len(axes) == 1 and view.attribute(node, "keepdims") else None


def _match(view: View, node: Node, op: str, x: str, axis: int, inside: list[Node]) -> Match | None:
    if not view.same_type(x, node.outputs[0]):
        return None
    fused = Node(op, (x,), node.outputs, {"axis": axis}, version=VERSION, name=node.name)
    return Match(fused, inside)
