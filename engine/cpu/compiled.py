"""What compiling a graph gives, whether it was just done or read from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from engine.cpu.code_store import Handle
from engine.cpu.lanes import Lanes
from engine.cpu.region import CompiledRegion
from engine.ir.graph import Graph, Node
from engine.ir.value_types import ValueType

# The operator of the nodes that stand for regions.
REGION_DOMAIN: Final = "millrace.cpu"
REGION: Final = "Region"


@dataclass(frozen=True)
class Coverage:
    """What became of one node.

    Attributes:
        node: The node, as the passes left it.
        reason: Why it has no native code; None when it has.
        graph: The name of the graph or body that it stands in.
    """

    node: Node
    reason: str | None
    graph: str


class PackedWeights(Protocol):
    """Fixed values as kernels read them."""

    @property
    def arrays(self) -> Sequence[np.ndarray]:
        """Their bytes, one array each."""


@dataclass(frozen=True, eq=False)
class CompiledGraph:
    """A graph with native code.

    Attributes:
        graph: What is left of it: portable nodes, and a node for every region.
        types: The types of all values of the graph as it was.
        regions: By the `index` of their nodes.
        coverage: What became of every node.
        lanes: Where runs get their memory.
        code: The kernels, which stay loaded as long as these are held.
        weights: The packed weights, which stay in memory as long as these are held.
        weights_bytes: Size of the packed weights.
    """

    graph: Graph
    types: Mapping[str, ValueType]
    regions: Sequence[CompiledRegion]
    coverage: tuple[Coverage, ...]
    lanes: Lanes
    code: Sequence[Handle]
    weights: PackedWeights
    weights_bytes: int
