"""Finds the attentions of a decoder with past: over its own earlier tokens, and over the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.errors import NotRecognised
from engine.ir.graph import Graph, Node
from engine.ir.types import Shape, element_count, symbol
from engine.ops.fused import FUSED_DOMAIN
from engine.passes.cache_names import CROSS, OWN, PARTS, CacheName, cache_name, caches
from engine.passes.rewriting import shape_of

ROWS = symbol("N")
MOVES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Identity"})
LONGEST = 16  # of a chain of moves that is looked through


@dataclass(frozen=True)
class CachedAttention:
    """One attention over caches.

    Attributes:
        node: The `millrace.Attention`.
        caches: Those of its keys and its values.
        new: Values that the caches take in, keys first; none for those of the source.
        heads: Number of heads.
        width: Numbers per token in each cache.
    """

    node: Node
    caches: tuple[CacheName, CacheName]
    new: tuple[str, ...]
    heads: int
    width: tuple[int, int]

    @property
    def is_own(self) -> bool:
        """Whether it goes over earlier tokens of its own."""
        return self.caches[0].side == OWN


def find_attentions(graph: Graph) -> list[CachedAttention]:
    """Return every attention over a cache, in order.

    Raises:
        NotRecognised: A cache is not used by exactly one of them, or in another way.
    """
    found = [
        _cached(graph, node)
        for node in graph.nodes
        if (node.domain, node.op) == (FUSED_DOMAIN, "Attention")
    ]
    used = [cache for each in found if each is not None for cache in each.caches]
    for side in (OWN, CROSS):
        for cache in caches(graph.input_names, side):
            if used.count(cache) != 1:
                raise NotRecognised(
                    f"cache {cache.past!r} is read by {used.count(cache)} attentions that were "
                    "recognised, expected one"
                )
    return [each for each in found if each is not None]


def _cached(graph: Graph, node: Node) -> CachedAttention | None:
    if node.attributes.get("perm_k") or node.attributes.get("perm_v"):
        return None
    sides = [_source(graph, name) for name in node.inputs[1:3]]
    key, value = sides
    if key is None or value is None:
        return None
    (first, new_key), (second, new_value) = key, value
    expected = CacheName(first.layer, first.side, PARTS[1])
    if first.part != PARTS[0] or second != expected:
        raise NotRecognised(
            f"attention {node.label!r} reads {first.past!r} as keys and {second.past!r} as values"
        )
    sizes = [_heads(graph, cache) for cache in (first, second)]
    if sizes[0][0] != sizes[1][0]:
        raise NotRecognised(f"{first.past!r} and {second.past!r} differ in their heads")
    new = () if first.side == CROSS else (new_key, new_value)
    return CachedAttention(node, (first, second), new, sizes[0][0], (sizes[0][1], sizes[1][1]))


def _source(graph: Graph, name: str) -> tuple[CacheName, str] | None:
    """Return the cache behind keys or values, and what is appended to it ("" for nothing)."""
    cache = cache_name(name)
    if cache is not None and name in graph.input_names:
        return (cache, "") if cache.side == CROSS else None
    node = graph.producers.get(name)
    if node is None or node.op != "Concat" or node.domain or len(node.inputs) != 2:
        return None
    past, new = node.inputs
    cache, axis = cache_name(past), node.attributes.get("axis")
    if cache is None or cache.side != OWN or past not in graph.input_names or axis not in (2, -2):
        return None
    return cache, new


def _heads(graph: Graph, cache: CacheName) -> tuple[int, int]:
    """Return the heads of a cache (N, H, positions, D), and numbers per token."""
    shape = shape_of(graph, cache.past)
    if shape is None or not isinstance(shape[1], int) or not isinstance(shape[3], int):
        raise NotRecognised(f"cache {cache.past!r} has no fixed heads")
    return shape[1], shape[1] * shape[3]


def flat_source(graph: Graph, name: str, width: int) -> str | None:
    """Return a value (N, 1, width) that has the very elements of another one in their order.

    There is one token, so transpositions of heads and tokens move nothing.
    """
    for _ in range(LONGEST):
        shape = shape_of(graph, name)
        if not _is_row(shape, width):
            return None
        if shape == (ROWS, 1, width):
            return name
        node = graph.producers.get(name)
        if node is None or node.domain or node.op not in MOVES:
            return None
        if node.op == "Transpose" and not _keeps_order(graph, node):
            return None
        name = node.inputs[0]
    return None


def _is_row(shape: Shape | None, width: int) -> bool:
    """Whether there is one row of `width` numbers per sequence."""
    return (
        bool(shape) and shape is not None and shape[0] == ROWS and element_count(shape[1:]) == width
    )


def is_row_of(graph: Graph, name: str, width: int) -> bool:
    """Whether a value holds one row of `width` numbers per sequence."""
    return _is_row(shape_of(graph, name), width)


def keeps_order(shape: Shape, perm: Sequence[int]) -> bool:
    """Whether a transposition only moves axes of size 1."""
    moved = [axis for axis in perm if shape[axis] != 1]
    return moved == sorted(moved)


def _keeps_order(graph: Graph, node: Node) -> bool:
    shape = shape_of(graph, node.inputs[0])
    if shape is None:
        return False
    stated = node.attributes.get("perm")
    perm = stated if isinstance(stated, tuple) else tuple(reversed(range(len(shape))))
    return keeps_order(shape, [axis for axis in perm if isinstance(axis, int)])
