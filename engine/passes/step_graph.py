"""The step graph: a decoder with past, rewritten for one new token per row over static caches.

Optimum's decoder takes all earlier keys and values and gives longer ones, for sequences of one
length. The step graph takes tokens of rows at any positions (N), caches (R, T, W) and a history
that tells each row where its earlier keys and values lie (`engine.ops.generation`), and keys and
values of several sources (S, M, W) of which each row looks at its own:

    tokens (N, 1), position (N), slot (N), history (R, T), source (N), source_length (S)
    past.0.key, past.0.value, ... (R, T, W); cross.0.key, ... (S, M, W)
    -> logits (N, V); present.0.key, ... (R, T, W); query.0, ... (N, 1, W)

The queries are those that the layers put to the source.

`Concat(past, new)` with its attention becomes an append and an attention over the history. What
else the length of the past decides (embeddings of positions, biases, masks) is computed beforehand
for every position and picked by `position`. What cannot be proved to be so ends in `NotRecognised`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from engine.errors import NotRecognised
from engine.evaluation import evaluate_graph
from engine.ir.graph import Graph
from engine.passes.context import PassContext
from engine.passes.dead_code import eliminate_dead_code
from engine.passes.step_attention import CachedAttention, find_attentions
from engine.passes.step_caches import query_of, with_caches
from engine.passes.step_flow import Origin, Probe, find_origins
from engine.passes.step_places import with_sizes, with_tables
from engine.passes.step_scores import Scores, check_source_mask, read_scores
from engine.passes.step_tables import (
    Tables,
    make_tables,
    picked_by_position,
    position_values,
)

METADATA: Final = "generation"  # the key under which a step graph says how it was made


def to_step_graph(graph: Graph, ctx: PassContext) -> Graph:
    """Return the step graph of a decoder whose attentions are one node each.

    Raises:
        NotRecognised: Something in it is not understood; says what.
    """
    seen = evaluate_graph(graph, ctx.registry, limits=ctx.limits, deadline=ctx.deadline)
    graph = seen.graph
    attentions = find_attentions(graph)
    scores = [read_scores(graph, each.node) for each in attentions]
    origins = find_origins(graph, seen.scope)
    _check_extras(scores, attentions, origins)
    _check_sources(graph, attentions, scores, ctx)
    cut = with_caches(graph, ctx, attentions, scores)
    origins = find_origins(cut, seen.scope)
    cut = with_sizes(cut, seen.scope, origins, ctx)
    ranks = position_values(cut, origins, ctx)
    own = [i for i, each in enumerate(attentions) if each.is_own]
    picked = picked_by_position(cut, origins)
    heads = [attentions[i].heads for i in own]
    tables = make_tables(graph, ranks, picked, [scores[i] for i in own], heads, ctx)
    step = with_tables(cut, tables, [attentions[i] for i in own], origins, ctx)
    return _described(_typed(step, ctx), tables, attentions, scores)


def _check_extras(
    scores: Sequence[Scores], attentions: Sequence[CachedAttention], origins: Mapping[str, Origin]
) -> None:
    """Hold what takes part in scores to what may be computed beforehand."""
    for each, attention in zip(scores, attentions, strict=True):
        known = Origin.LENGTH | Origin.NOTHING
        known |= Origin.NOTHING if attention.is_own else Origin.MASK | Origin.SPAN
        for name in each.extras:
            if origins[name] & ~known:
                raise NotRecognised(
                    f"attention {each.node.label!r}: what is added to its scores, {name!r}, "
                    f"depends on {origins[name]}"
                )


def _check_sources(
    graph: Graph, attentions: Sequence[CachedAttention], scores: Sequence[Scores], ctx: PassContext
) -> None:
    cross = [(a, s) for a, s in zip(attentions, scores, strict=True) if not a.is_own]
    probe = Probe(graph, sorted({name for _, each in cross for name in each.extras}), ctx)
    done: set[tuple[object, ...]] = set()
    for attention, each in cross:
        key = each.meaning
        if key not in done:
            check_source_mask(each, probe.at, attention.heads)
            done.add(key)


def _typed(graph: Graph, ctx: PassContext) -> Graph:
    """Type the step graph, which has none of the old inputs any more."""
    needed = eliminate_dead_code(graph, ctx)
    seen = evaluate_graph(needed, ctx.registry, limits=ctx.limits, deadline=ctx.deadline)
    return seen.graph


def _described(
    graph: Graph, tables: Tables, attentions: Sequence[CachedAttention], scores: Sequence[Scores]
) -> Graph:
    """Note in the metadata what was recognised."""
    own = [each for each in attentions if each.is_own]
    notes = [
        f"{len(own)} layers append to static caches, {own[0].heads} heads",
        f"{len(attentions) - len(own)} layers look at the source by its length",
        f"{tables.positions} positions, computed beforehand: {len(tables.values)} tables, "
        f"{len({id(each) for each in tables.biases if each is not None})} biases of scores",
    ]
    looks = [
        {
            "query": query_of(each),
            "key": each.caches[0].slot_in,
            "heads": each.heads,
            "scale": float(score.scale),
        }
        for each, score in zip(attentions, scores, strict=True)
        if not each.is_own
    ]
    facts = {
        "positions": tables.positions,
        "layers": len(own),
        "notes": notes,
        "looks": looks,  # at the source
    }
    return graph.replace(metadata={**graph.metadata, METADATA: json.dumps(facts)})
