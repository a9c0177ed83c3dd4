"""Puts nodes in topological order; a graph that cannot be is an `InvalidModel` that says why."""

from __future__ import annotations

import heapq
from collections.abc import Sequence, Set

from engine.errors import InvalidModel
from engine.ir.graph import Node


def sort_nodes(nodes: Sequence[Node], available: Set[str], graph: str) -> tuple[Node, ...]:
    """Return the nodes so that each reads only what comes before it, in file order where that is
    possible.
    """
    producer = _producers(nodes, available, graph)
    waits = [{producer[n] for n in node.reads if n in producer} for node in nodes]
    for index, node in enumerate(nodes):
        for name in node.reads:
            if name not in producer and name not in available:
                raise InvalidModel(
                    f"node {node.label!r} ({node.op}) reads {name!r}, "
                    f"which nothing in graph {graph!r} defines"
                )
        if index in waits[index]:
            raise InvalidModel(f"node {node.label!r} ({node.op}) reads its own output")
    if all(max(before, default=-1) < index for index, before in enumerate(waits)):
        return tuple(nodes)
    return _kahn(nodes, waits, graph)


def _producers(nodes: Sequence[Node], available: Set[str], graph: str) -> dict[str, int]:
    producer: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.outputs):
            if name in producer or name in available:
                raise InvalidModel(
                    f"node {node.label!r} ({node.op}) defines {name!r} a second time "
                    f"in graph {graph!r}"
                )
            producer[name] = index
    return producer


def _kahn(nodes: Sequence[Node], waits: Sequence[set[int]], graph: str) -> tuple[Node, ...]:
    readers: list[list[int]] = [[] for _ in nodes]
    for index, before in enumerate(waits):
        for producer in before:
            readers[producer].append(index)
    left = [len(before) for before in waits]
    ready = [index for index, count in enumerate(left) if count == 0]
    ordered: list[Node] = []
    while ready:
        index = heapq.heappop(ready)
        ordered.append(nodes[index])
        for reader in readers[index]:
            left[reader] -= 1
            if left[reader] == 0:
                heapq.heappush(ready, reader)
    if len(ordered) < len(nodes):
        stuck = nodes[next(i for i, count in enumerate(left) if count)]
        raise InvalidModel(f"graph {graph!r} has a cycle through node {stuck.label!r} ({stuck.op})")
    return tuple(ordered)
