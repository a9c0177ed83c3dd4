"""What the values of a decoder depend on, and what those that depend on lengths alone come to.

Found by following data, not by patterns: the length of the past enters a graph as the size of the
caches, and whatever is computed from it (places in a table, masks, T5's bias) comes to the same for
every sequence. So it can be computed beforehand, once per length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Flag, auto
from typing import Final

import numpy as np

from engine.errors import NotRecognised
from engine.inference import Scope
from engine.interpreter import GraphPlan
from engine.ir.graph import Array, Graph, Value
from engine.ir.types import SymDim, TensorType, symbols_of
from engine.passes.cache_names import (
    CACHE_POSITION,
    ENCODED,
    OWN,
    POSITION_IDS,
    SOURCE_MASK,
    TARGET_MASK,
    TOKENS,
    cache_name,
)
from engine.passes.context import PassContext
from engine.passes.dead_code import eliminate_dead_code


class Origin(Flag):
    """What a value depends on."""

    NOTHING = 0
    TOKENS = auto()
    PAST = auto()  # keys and values of earlier tokens
    SOURCE = auto()  # keys and values of the source, or what the encoder made
    MASK = auto()  # which tokens of the source there are
    LENGTH = auto()  # how many earlier tokens there are
    SPAN = auto()  # how many tokens the source has


INPUTS: Final[Mapping[str, Origin]] = {
    TOKENS: Origin.TOKENS,
    ENCODED: Origin.SOURCE,
    SOURCE_MASK: Origin.MASK,
    TARGET_MASK: Origin.LENGTH,
    CACHE_POSITION: Origin.LENGTH,
    POSITION_IDS: Origin.LENGTH,
}
SIZES: Final = {"P": Origin.LENGTH, "M": Origin.SPAN, "N": Origin.NOTHING}
SHAPE_OPS: Final = frozenset({"Shape", "Size"})


def origin_of_input(name: str) -> Origin:
    """Return what an input is."""
    cache = cache_name(name)
    if cache is not None:
        return Origin.PAST if cache.side == OWN else Origin.SOURCE
    return INPUTS.get(name, Origin.TOKENS)  # what a step graph takes per row


def find_origins(graph: Graph, scope: Scope) -> dict[str, Origin]:
    """Return what every value of a graph depends on; `scope` tells what is known by value."""
    found = dict.fromkeys((*graph.initializers, *graph.constants), Origin.NOTHING)
    found |= {name: origin_of_input(name) for name in graph.input_names}
    for node in graph.nodes:
        inputs = Origin.NOTHING
        for name in node.reads:
            inputs |= found[name]
        if node.op in SHAPE_OPS and not node.domain:
            inputs = _of_sizes(graph, node.inputs[0], found)
        for name in filter(None, node.outputs):
            known = scope.symbolic.get(name)
            found[name] = inputs if known is None else _of_known(known, inputs)
    return found


def _of_sizes(graph: Graph, name: str, found: Mapping[str, Origin]) -> Origin:
    kind = graph.types.get(name)
    if not isinstance(kind, TensorType) or kind.shape is None:
        return found[name]
    return _of_known(np.array(kind.shape, dtype=object), found[name])


def _of_known(known: np.ndarray, otherwise: Origin) -> Origin:
    """Return what numbers known by value depend on: the sizes that they are made of."""
    names = {n for d in known.flat if isinstance(d, SymDim) for n in symbols_of(d)}
    if not names <= SIZES.keys():
        return otherwise
    origin = Origin.NOTHING
    for name in names:
        origin |= SIZES[name]
    return origin


class Probe:
    """Computes some values of a graph for given lengths, whatever its tokens are."""

    def __init__(self, graph: Graph, names: Sequence[str], ctx: PassContext) -> None:
        """Keep what leads to the values `names`."""
        outputs = tuple(Value(name, graph.types[name]) for name in names)
        needed = eliminate_dead_code(graph.replace(outputs=outputs), ctx)
        read = {name for node in needed.nodes for name in node.reads} | set(names)
        inputs = tuple(v for v in graph.inputs if v.name in read)
        self._names = tuple(names)
        self._graph = needed.replace(inputs=inputs)
        self._plan = GraphPlan(self._graph, registry=ctx.registry, limits=ctx.limits)

    def at(
        self, length: int, mask: Sequence[int] = (1,), rows: int = 1, token: int = 0
    ) -> dict[str, Array]:
        """Return the values where `length` tokens came before, the source is `mask` and the new
        token, if that matters, is `token`.

        Raises:
            RunFailed: The graph cannot compute them, such as beyond its table of positions.
        """
        if not self._names:
            return {}
        sizes = {"N": rows, "P": length, "M": len(mask)}
        feeds = {}
        for value in self._graph.inputs:
            kind = value.type
            assert isinstance(kind, TensorType) and kind.shape is not None
            shape = [_number(d, sizes, value.name) for d in kind.shape]
            feed = _feed(value.name, shape, kind, length, mask)
            feeds[value.name] = np.full_like(feed, token) if value.name == TOKENS else feed
        return self._plan.run(feeds)


def _feed(
    name: str, shape: Sequence[int], kind: TensorType, length: int, mask: Sequence[int]
) -> np.ndarray:
    dtype = kind.dtype.numpy
    if name == SOURCE_MASK:
        return np.broadcast_to(np.array(mask), shape).astype(dtype)
    if name in (CACHE_POSITION, POSITION_IDS):
        return np.full(shape, length, dtype)
    if name == TARGET_MASK:
        return np.ones((shape[0], length + 1), dtype)
    return np.zeros(shape, dtype)


def _number(dim: object, sizes: Mapping[str, int], name: str) -> int:
    if isinstance(dim, int):
        return dim
    names = symbols_of(dim) if isinstance(dim, SymDim) else frozenset()
    if len(names) != 1 or not names <= sizes.keys():
        raise NotRecognised(f"input {name!r} has a size {dim} that is neither rows nor positions")
    return sizes[next(iter(names))]


__all__ = ["Origin", "Probe", "find_origins", "origin_of_input"]
