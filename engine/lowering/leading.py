"""Numbers of rows that may differ: inputs whose leading dims a model file names apart.

Proving rows independent takes such inputs to have as many rows as each other
(`engine.lowering.batch_symbol`). Where the graph lets them meet by broadcasting alone, one row
beside many is legal as well. `Model.run` then repeats the one row, and takes the repetition away
again from the outputs that depend on nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.evaluation import evaluate_graph
from engine.inference import Scope
from engine.ir.graph import Array, Graph, Node
from engine.ir.types import Dim, SymDim, TensorType, dim_broadcast, symbol, symbols_of
from engine.limits import Deadline, Limits
from engine.lowering.batch_axes import BatchAxes
from engine.ops.define import NUMPY_BROADCASTING, Elementwise
from engine.ops.registry import Registry

# These broadcast like elementwise operators, in the dims that meet.
SPREADING = ("MatMul", "Expand", "Einsum")


@dataclass(frozen=True)
class Aligned:
    """Feeds of as many rows each, and how many rows each output keeps of what a run gives."""

    feeds: Mapping[str, Array]
    kept: Mapping[str, int]

    def cut(self, results: dict[str, Array]) -> dict[str, Array]:
        """Take repeated rows away from what a run gave."""
        return {n: v[: self.kept[n]] if n in self.kept else v for n, v in results.items()}


@dataclass(frozen=True)
class LeadingDims:
    """What a model file calls the numbers of rows, where it does so by several names.

    Attributes:
        inputs: The symbol of each input that holds rows.
        outputs: The symbols whose sizes each output with rows broadcasts.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, tuple[str, ...]]

    def align(self, feeds: Mapping[str, Array]) -> Aligned | None:
        """Return the feeds with single rows repeated, None where there is nothing to repeat.

        Feeds that do not fit in some other way are left for the check of feeds to refuse.
        """
        sizes: dict[str, int] = {}
        for name, size_name in self.inputs.items():
            array = feeds.get(name)
            if not isinstance(array, np.ndarray) or not array.ndim:
                return None
            if sizes.setdefault(size_name, len(array)) != len(array):
                return None
        others = set(sizes.values()) - {1}
        if len(others) != 1 or 1 not in sizes.values():
            return None
        (rows,) = others
        single = [name for name, size_name in self.inputs.items() if sizes[size_name] == 1]
        repeated = {n: np.broadcast_to(feeds[n], (rows, *feeds[n].shape[1:])) for n in single}
        kept = {n: 1 for n, used in self.outputs.items() if all(sizes[s] == 1 for s in used)}
        if kept and not rows:  # one row is to come of none: nothing there to repeat
            return None
        return Aligned({**feeds, **repeated}, kept)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads."""
        outputs = {name: list(used) for name, used in self.outputs.items()}
        return {"inputs": dict(self.inputs), "outputs": outputs}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> LeadingDims:
        """Return what `to_json` wrote down."""
        inputs = {str(name): str(size_name) for name, size_name in data["inputs"].items()}
        return cls(inputs, {str(n): tuple(map(str, used)) for n, used in data["outputs"].items()})


def find_leading_dims(
    graph: Graph, axes: BatchAxes, registry: Registry, limits: Limits, deadline: Deadline
) -> LeadingDims | None:
    """Return the numbers of rows of the graph as it came, `axes` being proved of it with one.

    None where it has one number of rows, or where rows must be as many for another reason than
    that they are in one batch.
    """
    inputs = {v.name: str(_leading(v.type)) for v in graph.inputs if v.name in axes.inputs}
    names = frozenset(inputs.values())
    if len(names) < 2 or any(True for node in graph.nodes for _ in node.bodies):
        return None
    found = evaluate_graph(graph, registry, limits=limits, deadline=deadline)
    if not all(_may_differ(node, names, found.scope, registry) for node in graph.nodes):
        return None
    outputs: dict[str, tuple[str, ...]] = {}
    for value in found.graph.outputs:
        if value.name not in axes.outputs:
            continue
        dim = _leading(value.type)
        used = tuple(sorted(symbols_of(dim)))
        if not used or not names.issuperset(used) or dim != dim_broadcast(*map(symbol, used)):
            return None
        outputs[value.name] = used
    return LeadingDims(inputs, outputs)


def _leading(kind: object) -> Dim:
    shape = kind.shape if isinstance(kind, TensorType) else None
    return shape[0] if shape else 1


def _may_differ(node: Node, names: frozenset[str], scope: Scope, registry: Registry) -> bool:
    """Whether a node lets sizes of these names differ, by broadcasting them or meeting only one."""
    met = [_symbols(name, scope) & names for name in node.inputs if name]
    every = frozenset().union(*met)
    if len({each for each in met if each}) < 2:
        return True
    if all(name in scope.symbolic for name in node.outputs if name):
        return True  # arithmetic of sizes: who uses it is looked at
    definition = registry.find(node).definition
    is_spreading = isinstance(definition, Elementwise) and node.version >= NUMPY_BROADCASTING
    if not is_spreading and (node.domain or node.op not in SPREADING):
        return False
    return all(_shape_symbols(name, scope) >= every for name in node.outputs if name)


def _symbols(name: str, scope: Scope) -> frozenset[str]:
    """Return the symbols in a value's shape, and in its elements as far as they are known."""
    known = scope.symbolic.get(name)
    held: Iterable[Any] = () if known is None else known.flat
    return _shape_symbols(name, scope).union(*(symbols_of(d) for d in held))


def _shape_symbols(name: str, scope: Scope) -> frozenset[str]:
    kind = scope.types.get(name)
    shape = kind.shape if isinstance(kind, TensorType) else None
    dims = [d for d in shape or () if isinstance(d, SymDim)]
    return frozenset().union(*(d.symbols for d in dims))
