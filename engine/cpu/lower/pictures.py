"""What is settled about pictures before a region is lowered: their borders, and which of them are
written right into a wider one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from engine.cpu.lower.conv import border_of
from engine.cpu.lower.int8_conv import fill_of
from engine.cpu.lower.picture_parts import places_of, views_of
from engine.cpu.target import Target
from engine.ir.graph import Graph, Node


@dataclass(frozen=True)
class Pictures:
    """Plans for the pictures of a region.

    Attributes:
        borders: Rows and columns of zeros around each picture, as much as the widest window that
            reads it needs.
        places: Name -> the wider picture that it is a part of, and its first channel there.
        fills: What the border of a picture of bytes holds: the byte that means zero.
    """

    borders: dict[str, int] = field(default_factory=dict)
    places: dict[str, tuple[str, int]] = field(default_factory=dict)
    fills: dict[str, int] = field(default_factory=dict)


def plan_pictures(graph: Graph, nodes: Sequence[Node], target: Target) -> Pictures:
    """Look at every node of a region that reads windows or joins channels."""
    plan = Pictures()
    made = {name for node in nodes for name in node.outputs if name}
    for node in nodes:
        for name, border in border_of(graph, node).items():
            plan.borders[name] = max(plan.borders.get(name, 0), border)
        for name, byte in fill_of(graph, node).items():
            plan.fills.setdefault(name, byte)
        places = places_of(graph, node, target)
        if made.issuperset(places):
            plan.places.update(places)
    for node in reversed(nodes):  # some channels of a picture have the border of the picture
        for name, source in views_of(graph, node, target).items():
            if name in plan.borders:
                plan.borders[source] = max(plan.borders.get(source, 0), plan.borders[name])
    for name, (whole, _) in plan.places.items():  # a part has the border of the whole
        if name in plan.borders:
            plan.borders[whole] = max(plan.borders.get(whole, 0), plan.borders[name])
    return plan
