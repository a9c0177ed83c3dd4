"""What plans of one model for different sizes share."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.cpu.compiled import CompiledGraph
from engine.cpu.lanes import Lanes
from engine.cpu.weight_store import Held, WeightPool


@dataclass
class Beside:
    """Memory of the plans that are compiled beside a general one.

    Attributes:
        weights: Their packed weights, each content once.
        lanes: Memory of their runs, as much as the largest needs, however many sizes there are.
    """

    weights: WeightPool = field(default_factory=WeightPool)
    lanes: Lanes = field(default_factory=Lanes)
    _lent: list[Held] | None = field(default=None, init=False)

    def borrow(self, general: CompiledGraph) -> None:
        """Let the plans use weights of the general one, too, which must outlive them."""
        if self._lent is None:
            self._lent = self.weights.lend(general.weights.arrays)
