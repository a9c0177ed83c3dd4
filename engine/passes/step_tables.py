"""What depends on nothing but the position becomes a table with a row per position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.errors import EngineError, NotRecognised
from engine.ir.graph import Array, Graph, Node
from engine.ir.types import SymDim, floordiv, symbol
from engine.ops.define import NUMPY_BROADCASTING, Elementwise
from engine.passes.context import PassContext
from engine.passes.rewriting import shape_of
from engine.passes.step_flow import Origin, Probe
from engine.passes.step_scores import Scores

MOST_POSITIONS: Final = 512
FEWEST_POSITIONS: Final = 8  # a decoder for fewer is rather one that was not understood
SOME_TOKENS: Final = (0, 3)  # one of them is no padding, which has a position of its own
ROWS = symbol("N")
GONE: Final = Origin.PAST | Origin.SOURCE | Origin.MASK | Origin.SPAN


@dataclass(frozen=True)
class Tables:
    """What was computed for every position.

    Attributes:
        positions: How many there are.
        values: Per name, its value at each position.
        biases: Per attention over earlier tokens what is added to its scores, (T, heads or 1, 1,
            T), None for nothing.
    """

    positions: int
    values: Mapping[str, Array]
    biases: Sequence[Array | None]


def position_values(
    graph: Graph, origins: Mapping[str, Origin], ctx: PassContext
) -> dict[str, int]:
    """Return values that depend on the position alone and meet tokens, with the rank that they
    have there.

    Raises:
        NotRecognised: They meet tokens in something else than an elementwise operator, or something
            depends on what the step graph does not have.
    """
    found: dict[str, int] = {}
    for node in graph.nodes:
        if all(name in origins and not origins[name] & Origin.TOKENS for name in node.outputs):
            continue
        for name in node.reads:
            origin = origins.get(name, Origin.TOKENS)
            if origin & GONE:
                raise NotRecognised(f"node {node.label!r} reads {name!r}, which is {origin}")
            if origin is Origin.LENGTH:
                rank = _met_at(graph, node, name, ctx)
                if found.setdefault(name, rank) != rank:
                    raise NotRecognised(f"{name!r} meets tokens in several ranks")
    return found


def _met_at(graph: Graph, node: Node, name: str, ctx: PassContext) -> int:
    definition = ctx.registry.find(node).definition
    shape = shape_of(graph, node.outputs[0])
    spreads = isinstance(definition, Elementwise) and node.version >= NUMPY_BROADCASTING
    if not spreads or len(node.outputs) != 1 or not shape or shape[0] != ROWS:
        raise NotRecognised(
            f"node {node.label!r} ({node.op}) uses {name!r}, which depends on the position, other "
            "than row by row"
        )
    return len(shape)


def make_tables(
    graph: Graph, ranks: Mapping[str, int], picked: Sequence[str], scores: Sequence[Scores],
    heads: Sequence[int], ctx: PassContext,
) -> Tables:  # fmt: skip
    """Compute values and biases for one position after the other, as far as the graph can.

    `ranks` are from `position_values`, `picked` from `picked_by_position`.
    """
    extras = {name for each in scores for name in each.extras}
    probe = Probe(graph, sorted({*ranks, *extras}), ctx)
    values: dict[str, list[Array]] = {name: [] for name in ranks}
    # Layers often share what they add to their scores.
    keys = [(each.meaning, count) for each, count in zip(scores, heads, strict=True)]
    different = dict(zip(keys, scores, strict=True))
    biases: dict[tuple[object, int], list[Array]] = {key: [] for key in different}
    for length in range(MOST_POSITIONS):
        ctx.deadline.check(f"position {length} of the step graph")
        found = _at(probe, length)
        if found is None:
            break
        for name, rank in ranks.items():
            values[name].append(_row(name, found[name], rank))
        for key, each in different.items():
            biases[key].append(each.bias(found, (1, key[1], 1, length + 1)))
    computed = (*values.values(), *biases.values())
    most = min(map(len, computed)) if computed else 0
    positions = min([most, *(_fitting(rows, ctx) for rows in biases.values())])
    positions = _reached(Probe(graph, picked, ctx), positions)
    if positions < FEWEST_POSITIONS:
        raise NotRecognised(f"the decoder works for {positions} positions only")
    _check_rows(probe, ranks, values, positions)
    stacked = {name: np.stack(rows[:positions]) for name, rows in values.items()}
    tables = {key: _bias_table(rows[:positions]) for key, rows in biases.items()}
    return Tables(positions, stacked, [tables[key] for key in keys])


def picked_by_position(graph: Graph, origins: Mapping[str, Origin]) -> list[str]:
    """Return what is picked from fixed tables by indices made of token and position."""
    mixed = Origin.TOKENS | Origin.LENGTH
    return [
        node.outputs[0]
        for node in graph.nodes
        if node.op == "Gather"
        and not node.domain
        and graph.constant(node.inputs[0]) is not None
        and origins.get(node.inputs[1]) == mixed
    ]


def _reached(probe: Probe, most: int) -> int:
    """Return for how many positions up to `most` such tables have entries."""
    for token in SOME_TOKENS:
        low, high = 0, most  # works for low, not known to work for more than high
        while low < high:
            middle = (low + high + 1) // 2
            fails = _at(probe, middle - 1, token) is None
            low, high = (low, middle - 1) if fails else (middle, high)
        most = low or most  # a token that does not even exist says nothing
    return most


def _at(probe: Probe, length: int, token: int = 0) -> Mapping[str, Array] | None:
    """Return the values of a length; None where the model's own tables are at their end."""
    try:
        return probe.at(length, token=token)
    except EngineError:
        return None


def _row(name: str, value: Array, rank: int) -> Array:
    """Return what one position's value is for one row, without the axis of the rows."""
    shape = (1,) * (rank - value.ndim) + value.shape
    if len(shape) != rank or shape[0] != 1:
        raise NotRecognised(f"{name!r} has shape {list(value.shape)}, expected one row")
    row: Array = np.asarray(value).reshape(shape[1:])
    return row


def _check_rows(
    probe: Probe, ranks: Mapping[str, int], values: Mapping[str, Sequence[Array]], positions: int
) -> None:
    """Hold values to be the same for every row of a batch, and of one shape."""
    for name, rows in values.items():
        if len({row.shape for row in rows[:positions]}) > 1:
            raise NotRecognised(f"{name!r} grows with the position")
    for length in (0, 1, positions - 1):
        found = probe.at(length, rows=2)
        for name, rank in ranks.items():
            one, both = values[name][length], found[name]
            both = both.reshape((1,) * (rank - both.ndim) + both.shape)
            if both.shape[1:] != one.shape or any(not np.array_equal(row, one) for row in both):
                raise NotRecognised(f"{name!r} differs from row to row")


def _fitting(rows: Sequence[Array], ctx: PassContext) -> int:
    """Return how many positions a table of biases may have."""
    if not any(row.any() for row in rows):
        return len(rows)
    heads = rows[0].shape[1]
    return min(len(rows), int((ctx.limits.fold_bytes / (4 * heads)) ** 0.5))


def _bias_table(rows: Sequence[Array]) -> Array | None:
    if not any(row.any() for row in rows):
        return None
    count, heads = len(rows), rows[0].shape[1]
    table = np.zeros((count, heads, 1, count), np.float32)
    for length, row in enumerate(rows):
        table[length, :, :, : length + 1] = row[0]
    same = (table == table[:, :1]).all()
    return np.ascontiguousarray(table[:, :1]) if same else table


def in_rows(known: np.ndarray) -> list[tuple[int, bool]] | None:
    """Return numbers known by value as (factor, whether times the rows); None for other sizes."""
    found = []
    for dim in known.flat:
        if not isinstance(dim, SymDim):
            found.append((int(dim), False))
            continue
        factor = floordiv(dim, ROWS)
        if not isinstance(factor, int) or factor * ROWS != dim:
            return None
        found.append((factor, True))
    return found
