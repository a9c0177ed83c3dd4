"""Cuts a graph into regions of nodes with native code, and puts each into one node.

What remains is an ordinary graph whose region nodes stand between portable ones: the interpreter
walks it, and bodies of If, Loop and Scan are cut in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.cpu.compiled import REGION, REGION_DOMAIN
from engine.cpu.survey import Survey
from engine.ir.graph import Graph, Node


@dataclass(frozen=True)
class Region:
    """Nodes that become one native program.

    Attributes:
        nodes: In topological order.
        inputs: Computed names that the region reads from outside.
        outputs: Names that others read.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


Item = Node | Region


def partition(graph: Graph, found: Survey) -> list[Item]:
    """Return portable nodes and regions in an order in which they can run; dead nodes are left out.

    Portable nodes go as early as they can, so that native nodes gather in few regions.
    """
    waiting = _needed(graph, found)
    producers = {name: id(node) for node in waiting for name in node.outputs if name}
    done: set[int] = set()
    groups: list[tuple[bool, list[Node]]] = []
    native = False
    while waiting:
        taken: list[Node] = []
        rest: list[Node] = []
        for node in waiting:
            needs = (producers.get(name) for name in found.dependencies(node))
            ready = all(need is None or need in done for need in needs)
            if ready and found.is_native(node) is native:
                taken.append(node)
                done.add(id(node))
            else:
                rest.append(node)
        if taken:
            groups.append((native, taken))
        native, waiting = not native, rest
    return _items(graph, groups, found)


def _needed(graph: Graph, found: Survey) -> list[Node]:
    wanted = set(graph.output_names)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if not wanted.isdisjoint(node.outputs):
            kept.append(node)
            wanted.update(found.dependencies(node))
    return kept[::-1]


def _items(graph: Graph, groups: Sequence[tuple[bool, list[Node]]], found: Survey) -> list[Item]:
    readers = _readers(graph, groups, found)
    items: list[Item] = []
    for number, (native, nodes) in enumerate(groups):
        if not native:
            items.extend(nodes)
            continue
        made = {name for node in nodes for name in node.outputs if name}
        read = dict.fromkeys(n for node in nodes for n in found.dependencies(node))
        items.append(
            Region(
                tuple(nodes),
                tuple(name for name in read if name not in made),
                tuple(sorted(name for name in made if readers.get(name, set()) - {number})),
            )
        )
    return items


def _readers(
    graph: Graph, groups: Sequence[tuple[bool, list[Node]]], found: Survey
) -> Mapping[str, set[int]]:
    """Return in which groups a name is read; -1 is whoever reads the graph's outputs."""
    readers: dict[str, set[int]] = {name: {-1} for name in graph.output_names}
    for number, (_, nodes) in enumerate(groups):
        for node in nodes:
            for name in found.dependencies(node):
                readers.setdefault(name, set()).add(number)
    return readers


def region_node(region: Region, index: int) -> Node:
    """Return the node that stands for a region."""
    label = region.nodes[0].label if len(region.nodes) == 1 else f"{region.nodes[0].label} ..."
    return Node(
        REGION,
        region.inputs,
        region.outputs,
        {"index": index},
        domain=REGION_DOMAIN,
        name=f"region {index} ({label})",
    )
