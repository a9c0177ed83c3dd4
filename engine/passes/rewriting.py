"""Small tools that passes share: replacing nodes and values in a graph, fresh names, constant
operands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np

from engine.dtypes import DType
from engine.ir.graph import Array, Graph, Node
from engine.ir.types import Shape, TensorType
from engine.renaming import rename_node


def replace_nodes(graph: Graph, changes: Mapping[int, Node | None]) -> Graph:
    """Return the graph with nodes, told by `id`, replaced by another one or removed."""
    nodes = [changes.get(id(node), node) for node in graph.nodes]
    return with_nodes(graph, [node for node in nodes if node is not None])


def with_nodes(graph: Graph, nodes: Iterable[Node]) -> Graph:
    """Return the graph with these nodes, and types of the names that still exist."""
    kept = tuple(nodes)
    alive = {*graph.input_names, *graph.initializers, *graph.constants}
    alive.update(name for node in kept for name in node.outputs if name)
    types = {name: kind for name, kind in graph.types.items() if name in alive}
    return graph.replace(nodes=kept, types=types)


def with_constants(graph: Graph, values: Mapping[str, Array]) -> Graph:
    """Return the graph with more fixed values."""
    types = {n: TensorType(DType.from_numpy(v.dtype), tuple(v.shape)) for n, v in values.items()}
    return graph.replace(constants={**graph.constants, **values}, types={**graph.types, **types})


def redirect(graph: Graph, names: Mapping[str, str], removed: Collection[int]) -> Graph:
    """Remove nodes, told by `id`, and let readers of their outputs read other values instead."""
    final = _resolved(names)
    nodes = (rename_node(n, final) for n in graph.nodes if id(n) not in removed)
    return with_nodes(graph, nodes)


def is_single_use(graph: Graph, name: str) -> bool:
    """Whether one node reads the value and no output is it."""
    return len(graph.consumers.get(name, ())) == 1 and name not in graph.output_set


def fresh_name(graph: Graph, hint: str, taken: Collection[str] = ()) -> str:
    """Return a name that the graph does not use yet."""
    name, number = hint, 1
    while name in graph.types or name in taken:
        name, number = f"{hint}_{number}", number + 1
    return name


def fixed(graph: Graph, name: str) -> np.ndarray | None:
    """Return the fixed value of a name; None for an absent input or a computed value."""
    return graph.constant(name) if name else None


def tensor_type(graph: Graph, name: str) -> TensorType | None:
    """Return the type of a name that is a tensor; None for an absent one, a sequence and the like,
    and for what lies outside of the graph.
    """
    kind = graph.types.get(name)
    return kind if isinstance(kind, TensorType) else None


def shape_of(graph: Graph, name: str) -> Shape | None:
    """Return the shape of a tensor, None when its rank is unknown or it is no tensor."""
    kind = tensor_type(graph, name)
    return None if kind is None else kind.shape


def scalar(graph: Graph, name: str) -> float | None:
    """Return a fixed value that is one number; None for anything else."""
    value = fixed(graph, name)
    if value is None or value.size != 1 or value.dtype == object or value.dtype.kind == "c":
        return None
    return float(value.reshape(())[()])


def _resolved(names: Mapping[str, str]) -> dict[str, str]:
    """Return where each name leads in the end; no link of a long chain is followed twice."""
    final: dict[str, str] = {}
    for name in names:
        passed: list[str] = []
        while name in names and name not in final:
            passed.append(name)
            name = names[name]
        end = final.get(name, name)
        final.update((each, end) for each in passed)
    return final
