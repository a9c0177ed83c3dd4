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
from engine.dtypes import DType
from engine.ir.graph import Graph, Node
from engine.ir.types import Dim, TensorType, symbols_of
from engine.limits import Deadline
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
    deadline: Deadline | None = None,
) -> Survey:
    """Try every node; `excluded` ones are portable for the reason given."""
    reads: dict[int, tuple[str, ...]] = {}
    reasons: dict[int, str] = dict(excluded or {})
    witnesses: dict[str, str] = {}
    for value in graph.inputs:
        _add_witnesses(witnesses, graph, value.name)
    for node in graph.nodes:
        if deadline is not None:
            deadline.check(f"node {node.label!r}")
        if id(node) not in reasons:
            try:
                reads[id(node)] = _lower_alone(
                    graph, node, target, registry, symbolic, precision, witnesses
                )
            except NoKernel as reason:
                reasons[id(node)] = str(reason)
        if id(node) in reasons:  # its results tell sizes that nothing else does
            for name in filter(None, node.outputs):
                _add_witnesses(witnesses, graph, name)
    return Survey(reads, reasons)


class _Trial(Lowering):
    """A lowering of one node that remembers what was read."""

    touched: set[str]

    def plain(self, name: str, node: Node) -> Buffer:
        self._touch(name)
        return super().plain(name, node)

    def image(
        self,
        name: str,
        node: Node,
        *,
        thin: bool = False,
        border: int = 0,
        dtype: DType = DType.FLOAT32,
    ) -> Buffer:
        self._touch(name)
        return super().image(name, node, thin=thin, border=border, dtype=dtype)

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
    witnesses: Mapping[str, str],
) -> tuple[str, ...]:
    """Return the computed names that native code of a node reads, or only looks at the shape of."""
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
    reads = [n for n in given if n in trial.touched]
    needed = _needed_symbols(trial, node)
    for name in reads:
        needed -= _bare_symbols(graph.types.get(name))
    unknown = needed - witnesses.keys()
    if unknown:
        raise NoKernel(f"sizes depend on values: {', '.join(sorted(unknown))}")
    return (*reads, *dict.fromkeys(witnesses[symbol] for symbol in sorted(needed)))


def _needed_symbols(trial: Lowering, node: Node) -> set[str]:
    """Return the symbols that native code of a node must have numbers for before it runs."""
    dims: list[Dim] = [d for name in node.outputs if name for d in trial.shape(name)]
    for step in trial.program.steps:
        dims += [step.tasks, *step.numbers]
        dims += [b.root[0].size_bytes for b in (*step.writes, *step.reads)]
    for view in trial.views:  # copied, or read as they lie, by others
        dims += [*view.shape, *view.strides, view.first, view.buffer.root[0].size_bytes]
    for rule in trial.program.requirements:
        dims += [rule.left, rule.right]
    return {symbol for dim in dims for symbol in symbols_of(dim)}


def _add_witnesses(witnesses: dict[str, str], graph: Graph, name: str) -> None:
    """Note the symbols that the shape of a value tells."""
    kind = graph.types.get(name)
    if isinstance(kind, TensorType) and kind.dtype in MEMORY:
        for symbol in _bare_symbols(kind):
            witnesses.setdefault(symbol, name)


def _bare_symbols(kind: object) -> set[str]:
    shape = kind.shape if isinstance(kind, TensorType) else None
    return {str(d) for d in shape or () if not isinstance(d, int) and d.is_symbol}
