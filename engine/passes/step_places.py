"""Sizes and positions in a step graph: what was computed from the size of the caches is computed
from the rows there are, or picked from a table by each row's position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from engine.errors import NotRecognised
from engine.inference import Scope
from engine.ir.graph import Array, Graph, Node
from engine.passes.cache_names import cache_name
from engine.passes.context import PassContext
from engine.passes.dead_code import eliminate_dead_code
from engine.passes.graph_draft import GraphDraft
from engine.passes.rewriting import tensor_type, with_constants
from engine.passes.step_attention import CachedAttention
from engine.passes.step_caches import NEW_TOKENS, POSITION, VERSION
from engine.passes.step_flow import INPUTS, Origin
from engine.passes.step_tables import GONE, Tables, in_rows

COUNT: Final = "rows/count"  # how many rows there are, as a vector of one number


def with_sizes(
    graph: Graph, scope: Scope, origins: Mapping[str, Origin], ctx: PassContext
) -> Graph:
    """Compute sizes that are made of the number of rows from the tokens, not from the caches."""
    draft = GraphDraft(graph, ctx)
    lost = Origin.LENGTH | GONE
    for node in graph.nodes:
        known = all(origins.get(name, lost) == Origin.NOTHING for name in node.outputs)
        if known and any(origins.get(name, lost) & lost for name in node.reads):
            for name in filter(None, node.outputs):
                _put_size(draft, name, scope.symbolic[name])
        else:
            draft.nodes.append(node)
    return eliminate_dead_code(_drafted(graph, draft), ctx) if draft.constants else graph


def _put_size(draft: GraphDraft, name: str, known: np.ndarray) -> None:
    """Give numbers known by value, some of them multiples of the number of rows."""
    parts, kind = in_rows(known), tensor_type(draft.graph, name)
    if parts is None or kind is None:
        raise NotRecognised(f"{name!r} is made of sizes that a step does not have")
    if not any(node.outputs == (COUNT,) for node in draft.nodes):
        first = draft.constant("rows/first", np.array([0]))
        draft.nodes.append(Node("Shape", (NEW_TOKENS,), ("rows/shape",), version=VERSION))
        draft.nodes.append(
            Node("Gather", ("rows/shape", first), (COUNT,), {"axis": 0}, version=VERSION)
        )
    pieces = []
    for number, (factor, counts) in enumerate(parts):
        piece = draft.constant(f"{name}/{number}", np.array([factor]))
        if counts:
            product = draft.fresh(f"{name}/{number}/rows")
            draft.nodes.append(Node("Mul", (COUNT, piece), (product,), version=VERSION))
            piece = product
        pieces.append(piece)
    joined, shaped = draft.fresh(f"{name}/joined"), draft.fresh(f"{name}/shaped")
    target = draft.constant(f"{name}/shape", np.array(known.shape, np.int64))
    draft.nodes += [
        Node("Concat", tuple(pieces), (joined,), {"axis": 0}, version=VERSION),
        Node("Reshape", (joined, target), (shaped,), version=VERSION),
        Node("Cast", (shaped,), (name,), {"to": kind.dtype.onnx}, version=VERSION),
    ]


def with_tables(
    graph: Graph,
    tables: Tables,
    own: Sequence[CachedAttention],
    origins: Mapping[str, Origin],
    ctx: PassContext,
) -> Graph:
    """Pick from tables what depends on the position, and drop what computed it and old inputs."""
    draft = GraphDraft(graph, ctx)
    for name, table in tables.values.items():
        _put_pick(draft, name, table)
    biases = _put_biases(draft, tables, own)
    for node in graph.nodes:
        if all(origins.get(name, Origin.TOKENS) == Origin.LENGTH for name in node.outputs):
            continue
        bias = biases.get(node.inputs[1]) if node.op == "IndexedAttention" else None
        draft.nodes.append(node if bias is None else node.replace(inputs=(*node.inputs, bias)))
    return _without_old(eliminate_dead_code(_drafted(graph, draft), ctx))


def _put_pick(draft: GraphDraft, name: str, table: Array) -> None:
    """Give a value as the row of a table at the position: (T, ...) -> (N, ...)."""
    rows = draft.constant(f"{name}/positions", np.ascontiguousarray(table))
    pick = Node("Gather", (rows, POSITION), (name,), {"axis": 0}, version=VERSION, name=name)
    draft.nodes.append(pick)


def _put_biases(
    draft: GraphDraft, tables: Tables, own: Sequence[CachedAttention]
) -> dict[str, str]:
    """Return the bias that each attention reads, by its keys; one table is picked from once."""
    found: dict[str, str] = {}
    known: dict[int, str] = {}
    for table, attention in zip(tables.biases, own, strict=True):
        if table is None:
            continue
        name = known.get(id(table), "")
        if not name:
            name = known[id(table)] = draft.fresh(f"{attention.node.label}/bias")
            _put_pick(draft, name, table)
        found[attention.caches[0].slot_out] = name
    return found


def _drafted(graph: Graph, draft: GraphDraft) -> Graph:
    """Return the graph with the nodes and fixed values of a draft; it is typed again later."""
    return with_constants(graph, draft.constants).replace(nodes=tuple(draft.nodes))


def _without_old(graph: Graph) -> Graph:
    """Drop the inputs of the decoder that was; none may be left in use."""
    old = {n for n in graph.input_names if n in INPUTS or cache_name(n) is not None}
    read = {name: node for node in graph.nodes for name in node.reads if name in old}
    if read:
        name, node = next(iter(read.items()))
        raise NotRecognised(f"node {node.label!r} ({node.op}) still reads {name!r}")
    return graph.replace(inputs=tuple(v for v in graph.inputs if v.name not in old))
