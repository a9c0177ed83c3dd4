"""What a pass may use beside the graph, and the shape of a pass."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from engine.ir.graph import Graph
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


Pass = Callable[[Graph, PassContext], Graph]
