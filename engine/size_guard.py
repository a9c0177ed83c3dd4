"""Refuses runs with a value that is too large, before anything is allocated.

Sizes that follow from the shapes of the inputs are worked out once per combination of input shapes;
sizes that only values tell by the operator's own type rule, right before its node runs. What is
alive at once is counted by the walk itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod

import numpy as np

from engine.dtypes import DType
from engine.errors import InvalidModel, ResourceLimit, RunFailed
from engine.ir.graph import Array, Graph, Node, Value
from engine.ir.types import SymDim, TensorType, evaluate, symbols_of
from engine.ir.value_types import ValueType
from engine.ops.contexts import InferContext
from engine.ops.registry import Operator

REMEMBERED_SHAPES = 4096  # combinations of input shapes known to fit; beyond that, start over
SMALL_VALUES = 1024  # elements of an integer input that may decide about output sizes

Guard = Callable[[Sequence[Array | None]], None]


class SizeGuard:
    """Knows for which input shapes every single value of a graph fits."""

    def __init__(self, graph: Graph, limit_bytes: int, captured: Sequence[Value] = ()) -> None:
        """Of a body, values that it captures tell sizes as well as its inputs do."""
        self._graph = graph
        self._limit = limit_bytes
        given = (*graph.inputs, *captured)
        self._names = tuple(v.name for v in given if isinstance(v.type, TensorType))
        self._symbols = _bound_symbols(given)
        self.symbols = frozenset(self._symbols)
        self._fits: set[tuple[tuple[int, ...], ...]] = set()

    def check(self, feeds: Mapping[str, Array]) -> None:
        """Raise `ResourceLimit`, naming the node, when a value cannot fit for these inputs."""
        key = tuple([feeds[name].shape for name in self._names])
        if key in self._fits:
            return
        self._check_all(feeds)
        if len(self._fits) >= REMEMBERED_SHAPES:
            self._fits.clear()
        self._fits.add(key)

    def _check_all(self, feeds: Mapping[str, Array]) -> None:
        for name in self._names:
            need = prod(max(size, 1) for size in feeds[name].shape)
            if not feeds[name].size and need > self._limit:
                where, what = f"input {name!r}", f"room for {list(feeds[name].shape)}"
                raise ResourceLimit(where, what, f"run_bytes={self._limit}")
        bindings = {
            symbol: int(feeds[name].shape[axis])
            for symbol, (name, axis) in self._symbols.items()
            if axis < feeds[name].ndim
        }
        for node in self._graph.nodes:
            for name in filter(None, node.outputs):
                sizes = _known_sizes(self._graph.types.get(name), bindings)
                if sizes is not None:
                    self._check_value(node, self._graph.types[name], sizes)

    def _check_value(self, node: Node, kind: ValueType, sizes: Sequence[int]) -> None:
        if min(sizes, default=0) < 0:
            reason = f"its output would be {list(sizes)}: these inputs are too small for the model"
            raise RunFailed(node.label, node.op, reason)
        need = _bytes(kind, sizes)
        if need > self._limit:
            where = f"node {node.label!r} ({node.op})"
            raise ResourceLimit(where, f"{need} bytes", f"run_bytes={self._limit}")


def node_guard(
    op: Operator, node: Node, graph: Graph, limit_bytes: int, known: frozenset[str]
) -> Guard | None:
    """Return a check to make before a node runs; None when `SizeGuard`, which knows the symbols in
    `known`, sees its sizes.
    """
    kinds = [graph.types.get(name) for name in node.outputs if name]
    if all(kind is not None and _is_bound(kind, known) for kind in kinds):
        return None
    if any(True for _ in node.bodies):
        return None  # bodies check their own nodes
    if not op.tensors_only:
        return None  # these hand on what is there, or check for themselves
    attributes = op.complete(node)

    def guard(inputs: Sequence[Array | None]) -> None:
        ctx = InferContext(
            node=node,
            types=[_type_of(v) for v in inputs],
            attributes=attributes,
            constants=inputs,
            symbolic=[_as_integers(v) for v in inputs],
            version=node.version,
        )
        try:
            kinds = op.infer(ctx)
        except InvalidModel as error:  # these values are at fault: others may fit
            raise RunFailed(node.label, node.op, str(error)) from error
        for kind in kinds:
            sizes = _known_sizes(kind, {})
            need = 0 if sizes is None else _bytes(kind, sizes)
            if need > limit_bytes:
                where = f"node {node.label!r} ({node.op})"
                raise ResourceLimit(where, f"{need} bytes", f"run_bytes={limit_bytes}")

    return guard


def _bound_symbols(given: Sequence[Value]) -> dict[str, tuple[str, int]]:
    """Return which value and axis tells the number of a symbol."""
    found: dict[str, tuple[str, int]] = {}
    for value in given:
        for axis, dim in enumerate(value.type.shape or ()):
            if isinstance(dim, SymDim) and dim.is_symbol:
                found.setdefault(str(dim), (value.name, axis))
    return found


def _is_bound(kind: ValueType, known: frozenset[str]) -> bool:
    return kind.shape is not None and all(symbols_of(dim) <= known for dim in kind.shape)


def _known_sizes(kind: ValueType | None, bindings: Mapping[str, int]) -> list[int] | None:
    if kind is None or kind.shape is None:
        return None
    try:
        return [evaluate(dim, bindings) for dim in kind.shape]
    except (KeyError, ZeroDivisionError):
        return None


def _bytes(kind: ValueType, sizes: Sequence[int]) -> int:
    # An empty axis hides no other: numpy's loops over batches walk those all the same.
    return prod(max(size, 1) for size in sizes) * kind.dtype.itemsize


def _type_of(value: Array | None) -> TensorType | None:
    if value is None:
        return None
    return TensorType(DType.from_numpy(value.dtype), tuple(map(int, value.shape)))


def _as_integers(value: Array | None) -> np.ndarray | None:
    if value is None or value.dtype.kind not in "iu" or value.size > SMALL_VALUES:
        return None
    # Flat first: an empty array of shape (2**40, 0) has as many rows to list.
    known: np.ndarray = np.array(value.reshape(-1).tolist(), dtype=object).reshape(value.shape)
    return known
