"""Puts operators over static caches in the place of a decoder's attentions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from engine.dtypes import DType
from engine.errors import NotRecognised
from engine.ir.graph import Graph, Node, Value
from engine.ir.types import Shape, TensorType, symbol
from engine.ops.fused import FUSED_DOMAIN, FUSED_VERSION
from engine.passes.cache_names import LOGITS, TOKENS
from engine.passes.context import PassContext
from engine.passes.dead_code import eliminate_dead_code
from engine.passes.graph_draft import GraphDraft
from engine.passes.rewriting import shape_of
from engine.passes.step_attention import CachedAttention, flat_source, is_row_of, keeps_order
from engine.passes.step_scores import Scores
from engine.renaming import rename_node

VERSION: Final = 13  # of the ONNX nodes that are put in
NEW_TOKENS, POSITION, SLOT, HISTORY = "tokens", "position", "slot", "history"
SOURCE, SOURCE_LENGTH = "source", "source_length"
OLD_LOGITS: Final = f"{LOGITS}/rows"
RENAMED: Final = {TOKENS: NEW_TOKENS, LOGITS: OLD_LOGITS}
N, R, T, S, M = (symbol(name) for name in "NRTSM")


def with_caches(
    graph: Graph, ctx: PassContext, attentions: Sequence[CachedAttention], scores: Sequence[Scores]
) -> Graph:
    """Put operators over caches in the place of attentions; old inputs are still there."""
    kind = graph.types[TOKENS]
    if kind != TensorType(DType.INT64, (N, 1)):
        raise NotRecognised(f"{TOKENS!r} is {kind}, expected int64")
    draft = GraphDraft(graph, ctx)
    pairs = zip(attentions, scores, strict=True)
    by_node = {id(attention.node): (attention, each.scale) for attention, each in pairs}
    for node in graph.nodes:
        found = by_node.get(id(node))
        if found is None:
            draft.nodes.append(rename_node(node, RENAMED))
        elif found[0].is_own:
            _put_own(draft, *found)
        else:
            _put_source(draft, *found)
    _put_logits(draft)
    inputs = _new_inputs(attentions)
    old = tuple(v for v in graph.inputs if v.name != TOKENS)
    outputs = (
        LOGITS,
        *(c.slot_out for each in attentions if each.is_own for c in each.caches),
        *(query_of(each) for each in attentions if not each.is_own),
    )
    unknown = TensorType(DType.FLOAT32)
    types = {RENAMED.get(name, name): kind for name, kind in graph.types.items()}
    types |= {v.name: v.type for v in inputs} | dict.fromkeys(outputs, unknown)
    cut = graph.replace(
        inputs=(*inputs, *old),
        outputs=tuple(Value(name, unknown) for name in outputs),
        nodes=tuple(draft.nodes),
        constants={**graph.constants, **draft.constants},
        types=types,
    )
    return eliminate_dead_code(cut, ctx)


def query_of(attention: CachedAttention) -> str:
    """Return what the step graph calls the queries that a layer puts to the source."""
    return f"query.{attention.caches[0].layer}"


def _new_inputs(attentions: Sequence[CachedAttention]) -> tuple[Value, ...]:
    index, places = DType.INT64, {POSITION: (N,), SLOT: (N,)}
    found = [Value(NEW_TOKENS, TensorType(index, (N, 1)))]
    found += [Value(name, TensorType(index, shape)) for name, shape in places.items()]
    found.append(Value(HISTORY, TensorType(DType.INT32, (R, T))))
    if not all(each.is_own for each in attentions):
        found.append(Value(SOURCE, TensorType(index, (N,))))
        found.append(Value(SOURCE_LENGTH, TensorType(index, (S,))))
    for each in attentions:
        rows: Shape = (R, T) if each.is_own else (S, M)
        for cache, width in zip(each.caches, each.width, strict=True):
            found.append(Value(cache.slot_in, TensorType(DType.FLOAT32, (*rows, width))))
    return tuple(found)


def _put_own(draft: GraphDraft, attention: CachedAttention, scale: float) -> None:
    """Append what is new, then attend to the history."""
    for cache, new, width in zip(attention.caches, attention.new, attention.width, strict=True):
        append = (cache.slot_in, _flat(draft, new, width), SLOT, POSITION)
        draft.nodes.append(_fused("AppendCache", append, cache.slot_out, cache.slot_out))
    key, value = (cache.slot_out for cache in attention.caches)
    inputs = (_query(draft, attention), key, value, HISTORY, SLOT, POSITION)
    _put_attention(draft, attention, "IndexedAttention", inputs, scale)


def _put_source(draft: GraphDraft, attention: CachedAttention, scale: float) -> None:
    key, value = (cache.slot_in for cache in attention.caches)
    inputs = (_query(draft, attention), key, value, SOURCE, SOURCE_LENGTH)
    # Given as well: with the keys it tells where a row looks. It lies in memory in any case.
    given = Node("Identity", inputs[:1], (query_of(attention),), version=VERSION)
    draft.nodes.append(given)
    _put_attention(draft, attention, "SourceAttention", inputs, scale)


def _put_attention(
    draft: GraphDraft, attention: CachedAttention, op: str, inputs: tuple[str, ...], scale: float
) -> None:
    """Add the operator, and give its result the shape that the old one's had."""
    node, width = attention.node, attention.width[1]
    result = node.outputs[0]
    shape = shape_of(draft.graph, result)
    sizes = [d for d in (shape or ())[1:] if isinstance(d, int)]
    perm = node.attributes.get("perm_y", ())
    assert isinstance(perm, tuple)
    plain: Shape = (N, attention.heads, 1, width // attention.heads)
    moved = keeps_order(plain, [int(axis) for axis in perm]) if perm else True
    if not is_row_of(draft.graph, result, width) or len(sizes) != 3 or not moved:
        raise NotRecognised(f"attention {node.label!r} gives {shape}, expected one token a row")
    rows = draft.fresh(f"{result}/rows")
    attributes = {"heads": attention.heads, "scale": float(scale)}
    draft.nodes.append(_fused(op, inputs, rows, node.label).replace(attributes=attributes))
    target = draft.constant(f"{result}/shape", np.array([-1, *sizes]))
    draft.nodes.append(Node("Reshape", (rows, target), (result,), version=VERSION))


def _query(draft: GraphDraft, attention: CachedAttention) -> str:
    """Return the queries as (N, 1, W)."""
    node, name, width = attention.node, attention.node.inputs[0], attention.width[0]
    shape, perm = shape_of(draft.graph, name), node.attributes.get("perm_q", ())
    assert isinstance(perm, tuple)
    order = [int(axis) for axis in perm]
    if shape is None or len(shape) != 4 or not keeps_order(shape, order):
        raise NotRecognised(f"attention {node.label!r}: queries {shape} are not one token a row")
    return _flat(draft, name, width)


def _flat(draft: GraphDraft, name: str, width: int) -> str:
    """Return a value as (N, 1, width), which it is but for its shape."""
    if not is_row_of(draft.graph, name, width):
        shape = shape_of(draft.graph, name)
        raise NotRecognised(f"{name!r} is {shape}, expected {width} numbers of one token a row")
    found = flat_source(draft.graph, name, width)
    if found is not None:
        return RENAMED.get(found, found)
    target = draft.constant(f"{name}/shape", np.array([-1, 1, width]))
    flat = draft.fresh(f"{name}/flat")
    draft.nodes.append(Node("Reshape", (name, target), (flat,), version=VERSION))
    return flat


def _put_logits(draft: GraphDraft) -> None:
    shape = shape_of(draft.graph, LOGITS)
    if shape is None or len(shape) != 3 or shape[:2] != (N, 1):
        raise NotRecognised(f"{LOGITS!r} has shape {shape}, expected (rows, 1, vocabulary)")
    target = draft.constant(f"{LOGITS}/shape", np.array([0, -1]))
    draft.nodes.append(Node("Reshape", (OLD_LOGITS, target), (LOGITS,), version=VERSION))


def _fused(op: str, inputs: tuple[str, ...], output: str, name: str) -> Node:
    return Node(op, inputs, (output,), domain=FUSED_DOMAIN, version=FUSED_VERSION, name=name)
