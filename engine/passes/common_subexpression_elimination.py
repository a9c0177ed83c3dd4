"""Common subexpression elimination: what is computed twice from the same values is computed once.

Equal are nodes of one operator and version with equal attributes (arrays by content, -0 apart from
0, NaN equal to itself) over equal inputs; equal are fixed values with the same bytes. Left alone:
operators that give another value each time, nodes with bodies, and values that are outputs of the
graph by a name of their own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable

import numpy as np

from engine.ir.graph import Array, Attribute, Graph, Node
from engine.passes.context import PassContext
from engine.passes.rewriting import redirect

SAMPLE = 64  # elements that tell most arrays apart before all of their bytes are compared


def eliminate_common_subexpressions(graph: Graph, ctx: PassContext) -> Graph:
    """Let readers of a repeated value read the first one."""
    names = _equal_constants(graph)
    seen: dict[Hashable, Node] = {}
    removed: set[int] = set()
    for node in ctx.each(graph.nodes):
        if any(True for _ in node.bodies) or not ctx.registry.find(node).deterministic:
            continue
        first = seen.setdefault(_key(node, names), node)
        if first is node or not graph.output_set.isdisjoint(node.outputs):
            continue
        removed.add(id(node))
        names |= {b: a for a, b in zip(first.outputs, node.outputs, strict=True) if b}
    return redirect(graph, names, removed) if names else graph


def _key(node: Node, names: dict[str, str]) -> Hashable:
    attributes = tuple(sorted((k, _frozen(v)) for k, v in node.attributes.items()))
    inputs = tuple(names.get(name, name) for name in node.inputs)
    wanted = tuple(map(bool, node.outputs))
    return node.domain, node.op, node.version, inputs, wanted, attributes


def _frozen(value: Attribute) -> str:
    """Return an attribute as text: repr tells -0.0 from 0.0 and 1 from 1.0 and True."""
    if isinstance(value, np.ndarray):
        content = value.tolist() if value.dtype == object else value.tobytes()
        return f"{value.dtype}{value.shape}{content!r}"
    return repr(value)


def _equal_constants(graph: Graph) -> dict[str, str]:
    """Map names of fixed values to the first name with the same value."""
    first: dict[Hashable, tuple[str, Array]] = {}
    digests: dict[Hashable, dict[bytes, str]] = {}
    names: dict[str, str] = {}
    for table in (graph.initializers, graph.constants):
        for name, value in table.items():
            key = _sample(value)
            earlier, array = first.setdefault(key, (name, value))
            if earlier == name:
                continue
            if value.size > SAMPLE:
                # Weights are read in full only where their beginnings agree, and each one once.
                known = digests.setdefault(key, {})
                if not known:
                    known[_digest(array)] = earlier
                earlier = known.setdefault(_digest(value), name)
            if earlier != name:
                names[name] = earlier
    return names


def _sample(value: Array) -> Hashable:
    flat = value.reshape(-1)[:SAMPLE]
    content = repr(flat.tolist()) if value.dtype == object else flat.tobytes()
    return str(value.dtype), value.shape, content


def _digest(value: Array) -> bytes:
    if value.dtype == object:
        return hashlib.blake2b(repr(value.tolist()).encode(errors="surrogatepass")).digest()
    return hashlib.blake2b(np.ascontiguousarray(value).reshape(-1).view(np.uint8).data).digest()
