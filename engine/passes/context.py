"""What a pass may use beside the graph, and the shape of a pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from engine.ir.graph import Graph, Node
from engine.limits import Deadline, Limits
from engine.ops.registry import Registry


@dataclass(frozen=True)
class PassContext:
    """Operators, limits and the deadline of the load that a pass is part of; `precision` is what
    products may compute in: "int8" and "int8-stored" have them quantize their operands, else the
    graph stays exact.
    """

    registry: Registry
    limits: Limits = field(default_factory=Limits)
    deadline: Deadline = field(default_factory=lambda: Deadline(Limits().load_s))
    precision: str = "fp32"

    def each(self, nodes: Iterable[Node]) -> Iterator[Node]:
        """Yield nodes while there is time; `ResourceLimit` names the one at which it was over."""
        for node in nodes:
            self.deadline.check(f"node {node.label!r}")
            yield node


Pass = Callable[[Graph, PassContext], Graph]
