"""Finds out which nodes have native code, and what they truly read, by lowering each one alone.

Nothing is packed, emitted or kept. What a rule never looks at (the shape operand of a Reshape whose
result is known anyway) is no dependency of the native node, so whole chains of shape arithmetic
fall away.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from engine.cpu.buffers import Buffer
from engine.cpu.builder import MEMORY
from engine.cpu.lower.context import Lowering
from engine.cpu.lower.rules import NoKernel
from engine.cpu.target import Target
from engine.ir.graph import Graph, Node
from engine.ir.types import TensorType, symbols_of
from engine.ops.registry import Registry


@dataclass(frozen=True)
class Survey:
    """What was found out about one graph's nodes.

    Attributes:
        reads: For every node with native code, by its identity, the computed names that it reads.
        reasons: For every other node, why it has none.
    """

    reads: Mapping[int, tuple[str, ...]]
    reasons: Mapping[int, str]

    def is_native(self, node: Node) -> bool:
        """Whether the node has native code."""
        return id(node) in self.reads

    def dependencies(self, node: Node) -> tuple[str, ...]:
        """Return the names that a node needs before it can run."""
        return self.reads.get(id(node), node.reads)


def survey(
    graph: Graph,
    target: Target,
    registry: Registry,
    *,
    symbolic: Mapping[str, np.ndarray],
    precision: str = "fp32",
    excluded: Mapping[int, str] | None = None,
) -> Survey:
    """Try every node; `excluded` ones are portable for the reason given."""
    reads: dict[int, tuple[str, ...]] = {}
    reasons: dict[int, str] = dict(excluded or {})
    known = _bindable(graph)
    for node in graph.nodes:
        if id(node) in reasons:
            continue
        try:
            reads[id(node)] = _lower_alone(graph, node, target, registry, symbolic, precision)
            _check_symbols(graph, node, known)
        except NoKernel as reason:
            reads.pop(id(node), None)
            reasons[id(node)] = str(reason)
            known |= _own_symbols(graph, node)
    return Survey(reads, reasons)


class _Trial(Lowering):
    """A lowering of one node that remembers what was read."""

    touched: set[str]

    def plain(self, name: str, node: Node) -> Buffer:
        self._touch(name)
        return super().plain(name, node)

    def image(self, name: str, node: Node, *, thin: bool = False, border: int = 0) -> Buffer:
        self._touch(name)
        return super().image(name, node, thin=thin, border=border)

    def _touch(self, name: str) -> None:
        if self.dtype(name) not in MEMORY:
            raise NoKernel(f"{name!r} holds {self.dtype(name)}, which has no native code")
        self.touched.add(name)


def _lower_alone(
    graph: Graph,
    node: Node,
    target: Target,
    registry: Registry,
    symbolic: Mapping[str, np.ndarray],
    precision: str,
) -> tuple[str, ...]:
    if any(True for _ in node.bodies):
        raise NoKernel("it has a body")
    given = [n for n in dict.fromkeys(node.inputs) if n and graph.constant(n) is None]
    trial = _Trial(
        graph,
        (node,),
        target,
        inputs=[n for n in given if isinstance(graph.types.get(n), TensorType)],
        outputs=(),
        registry=registry,
        symbolic=symbolic,
        precision=precision,
    )
    trial.touched = set()
    trial.lower(node)
    for name in filter(None, node.outputs):
        if trial.dtype(name) not in MEMORY:
            raise NoKernel(f"{name!r} holds {trial.dtype(name)}, which has no native code")
    return tuple(n for n in given if n in trial.touched)


def _bindable(graph: Graph) -> set[str]:
    """Return the symbols that the inputs of the graph will tell."""
    found: set[str] = set()
    for value in graph.inputs:
        found |= _bare_symbols(value.type)
    return found


def _own_symbols(graph: Graph, node: Node) -> set[str]:
    """Return the symbols that a portable node's results will tell."""
    found: set[str] = set()
    for name in filter(None, node.outputs):
        found |= _bare_symbols(graph.types.get(name))
    return found


def _bare_symbols(kind: object) -> set[str]:
    shape = kind.shape if isinstance(kind, TensorType) else None
    return {str(d) for d in shape or () if not isinstance(d, int) and d.is_symbol}


def _check_symbols(graph: Graph, node: Node, known: set[str]) -> None:
    """Native code allocates its results before it runs: their sizes must follow from what is known
    then.
    """
    for name in filter(None, node.outputs):
        kind = graph.types.get(name)
        shape = kind.shape if isinstance(kind, TensorType) else None
        unknown = {s for d in shape or () for s in symbols_of(d)} - known
        if shape is None or unknown:
            raise NoKernel(f"the shape of {name!r} depends on values: {', '.join(sorted(unknown))}")
