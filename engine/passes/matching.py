"""Finds what exporters spread over many nodes: tools that recognisers share.

A recogniser looks at one node, the last of its pattern, walks up through the values that it reads,
and returns a `Match`: the node that says the same at once, and the nodes that only led to it. The
driver replaces a match if nobody else reads what lies inside, so nothing observable goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.dtypes import FLOATS, NARROW_FLOATS, DType
from engine.ir.graph import Array, Graph, Node
from engine.passes.context import PassContext
from engine.passes.rewriting import (
    fixed,
    fresh_name,
    scalar,
    shape_of,
    tensor_type,
    with_constants,
    with_nodes,
)

MAX_FACTORS = 8  # of a flattened product
MAX_LINKS = 16  # of a chain that is looked through: exporters write two or three


@dataclass(frozen=True)
class Match:
    """What a recogniser found.

    Attributes:
        node: Takes the place of the last node of the pattern and gives its output.
        inside: The other nodes of the pattern; they go.
        constants: Fixed values that the new node reads.
    """

    node: Node
    inside: Sequence[Node]
    constants: Mapping[str, Array] = field(default_factory=dict)


@dataclass
class Product:
    """A product written flat: a number times `names`, made by `nodes`."""

    coefficient: float
    names: list[str]
    nodes: list[Node] = field(default_factory=list)


class View:
    """A graph as a recogniser looks at it: upward, through names."""

    def __init__(self, graph: Graph, ctx: PassContext) -> None:
        self.graph = graph
        self.ctx = ctx
        self._fresh: set[str] = set()

    def producer(self, name: str, *ops: str) -> Node | None:
        """Return the ONNX node that gives the name, if it is one of these operators."""
        node = self.graph.producers.get(name)
        if node is None or node.domain or node.op not in ops:
            return None
        return node

    def attribute(self, node: Node, name: str) -> object:
        """Return an attribute of a node, or its default."""
        return self.ctx.registry.find(node).complete(node).get(name)

    def is_near(self, number: float | None, value: float, name: str) -> bool:
        """Whether a number that was rounded to the type of `name` stands for `value`."""
        kind = tensor_type(self.graph, name)
        if number is None or kind is None or not math.isfinite(number):
            return False
        digits = 1e-6
        if kind.dtype.is_narrow_float:
            digits = 2.0**-7 if kind.dtype is DType.BFLOAT16 else 2.0**-10
        return abs(number - value) <= digits * max(abs(value), abs(number))

    def number(self, name: str) -> float | None:
        """Return a fixed value that is one number."""
        return scalar(self.graph, name)

    def split(self, node: Node, test: Callable[[str], bool]) -> tuple[str, str] | None:
        """Return (the input for which `test` holds, the other one) of a node with two inputs."""
        if len(node.inputs) != 2:
            return None
        a, b = node.inputs
        if test(a):
            return a, b
        return (b, a) if test(b) else None

    def with_number(self, node: Node | None, value: float) -> str | None:
        """Return the other input of a commutative node of which one is this number."""
        if node is None:
            return None
        found = self.split(node, lambda name: self.is_near(self.number(name), value, name))
        return found[1] if found else None

    def uncast(self, name: str) -> tuple[str, list[Node]]:
        """Look through casts between floats: the source and the casts.

        Those of 16 bits go through float32, and through float64 (which torch writes where a
        constant was a Python number): what comes back in 16 bits is the same but for rounding.
        """
        casts: list[Node] = []
        while len(casts) < MAX_LINKS and (node := self.producer(name, "Cast")) is not None:
            before, after = (tensor_type(self.graph, n) for n in (node.inputs[0], name))
            if before is None or after is None or not _alike(before.dtype, after.dtype):
                break
            casts.append(node)
            name = node.inputs[0]
        return name, casts

    def product(self, name: str) -> Product:
        """Flatten what gives `name`: products, and quotients by a number, that it alone reads."""
        found = Product(1.0, [name])
        place = 0
        while place < len(found.names) <= MAX_FACTORS and len(found.nodes) <= MAX_LINKS:
            known = self.number(found.names[place])
            name, casts = self.uncast(found.names[place])
            node = self.producer(name, "Mul", "Div")
            if known is not None:
                found.coefficient *= known
                del found.names[place]
            elif node is None or not self._flattens(node, found):
                place += 1
            else:
                divisor = self.number(node.inputs[1]) if node.op == "Div" else None
                found.coefficient /= divisor or 1.0
                found.names[place : place + 1] = node.inputs[: 2 if divisor is None else 1]
                found.nodes += [*casts, node]
        return found

    def _flattens(self, node: Node, found: Product) -> bool:
        """Whether a product or quotient is part of the product that is being written flat."""
        if len(node.inputs) != 2 or (node.op == "Div" and not self.number(node.inputs[1])):
            return False
        return not found.nodes or self.is_inner(node)

    def source(self, name: str) -> str:
        """Return the value behind casts."""
        return self.uncast(name)[0]

    def typed(self, name: str, dtype: DType) -> str | None:
        """Return the value, or one that it was cast from, that has this element type."""
        names = [name, *(cast.inputs[0] for cast in self.uncast(name)[1])]
        for each in names:
            kind = tensor_type(self.graph, each)
            if kind is not None and kind.dtype is dtype:
                return each
        return None

    def is_inner(self, node: Node) -> bool:
        """Whether one node alone reads the output, so that it can be part of a pattern."""
        name = node.outputs[0]
        return len(self.graph.consumers.get(name, ())) == 1 and name not in self.graph.output_set

    def same_type(self, a: str, b: str) -> bool:
        """Whether two values are proved to have one type and shape."""
        left, right = tensor_type(self.graph, a), tensor_type(self.graph, b)
        return left is not None and left == right and left.shape is not None

    def axes(self, node: Node) -> tuple[int, ...] | None:
        """Return the axes of a reduction counted from the front, sorted; None where not known."""
        shape = shape_of(self.graph, node.inputs[0])
        if shape is None:
            return None
        stated = self.attribute(node, "axes")
        if len(node.inputs) > 1 and node.inputs[1]:
            known = fixed(self.graph, node.inputs[1])
            if known is None:
                return None
            stated = known.reshape(-1).tolist()
        if not stated:
            return None
        return tuple(sorted(int(a) % len(shape) for a in stated))  # type: ignore[attr-defined]

    def fresh(self, hint: str) -> str:
        """Return a name that neither the graph nor another match uses."""
        name = fresh_name(self.graph, hint, self._fresh)
        self._fresh.add(name)
        return name


def _alike(a: DType, b: DType) -> bool:
    if not (a in FLOATS and b in FLOATS):
        return False
    return a.compute is b.compute or a in NARROW_FLOATS or b in NARROW_FLOATS


Recogniser = Callable[[View, Node], Match | None]


def rewrite_matches(graph: Graph, ctx: PassContext, recognise: Recogniser) -> Graph:
    """Replace every match whose inner values nobody else reads; matches never overlap."""
    view = View(graph, ctx)
    claimed: set[int] = set()
    read: set[str] = set()  # by the new nodes, which may look further up than those they replace
    roots: dict[int, Node] = {}
    constants: dict[str, Array] = {}
    for node in ctx.each(reversed(graph.nodes)):
        match = None if id(node) in claimed or node.domain else recognise(view, node)
        if match is None:
            continue
        members = {id(n) for n in match.inside} | {id(node)}
        if members & claimed or not _is_closed(graph, match, members, read):
            continue
        claimed |= members
        read.update(match.node.inputs)
        roots[id(node)] = match.node
        constants.update(match.constants)
    if not roots:
        return graph
    return with_nodes(with_constants(graph, constants), _kept(graph, claimed, roots))


def _is_closed(graph: Graph, match: Match, members: set[int], read: set[str]) -> bool:
    """Whether nothing that goes is an output, or read by what stays or by a new node."""
    for node in match.inside:
        for name in filter(None, node.outputs):
            readers = graph.consumers.get(name, ())
            if name in graph.output_set or name in read or name in match.node.inputs:
                return False
            if any(id(r) not in members for r in readers):
                return False
    return True


def _kept(graph: Graph, claimed: set[int], roots: Mapping[int, Node]) -> Iterator[Node]:
    for node in graph.nodes:
        if id(node) in roots:
            yield roots[id(node)]
        elif id(node) not in claimed:
            yield node


def as_parameter(view: View, name: str, shape: tuple[int, ...], dtype: DType) -> Array | None:
    """Return a fixed value as a parameter of exactly this shape and type, or None.

    Axes of size 1 in front may go, and a single number is repeated; other types must hold the very
    values.
    """
    value = fixed(view.graph, name)
    if value is None or value.dtype == object:
        return None
    if value.size == 1:
        value = np.broadcast_to(value.reshape(()), shape)
    elif value.size != math.prod(shape) or value.shape[-len(shape) :] != shape:
        return None
    value = value.reshape(shape)
    with np.errstate(all="ignore"):
        result = value.astype(dtype.numpy)
        exact = np.array_equal(result.astype(value.dtype), value, equal_nan=False)
    return np.ascontiguousarray(result) if exact else None
