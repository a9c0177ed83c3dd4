"""Fixed values as kernels want them: packed once per plan, in large blocks on huge pages."""

from __future__ import annotations

import numpy as np

from engine.cpu.buffers import Weights
from engine.cpu.runtime.memory import Block

ALIGNMENT = 64
BLOCK_BYTES = 64 << 20
# Kernels read ahead of what they use: past the end of a panel lie zeros that belong to us.
MARGIN = 4096


class WeightStore:
    """Packed weights of one plan, by key. They lie in the order in which they are first used."""

    def __init__(self) -> None:
        self._addresses: dict[tuple[str, str], tuple[int, int]] = {}
        self._blocks: list[Block] = []
        self._used = 0
        self.size_bytes = 0

    def find(self, weights: Weights, scope: str = "") -> tuple[int, int]:
        """Return address and bytes of a fixed value, packing it if nobody has.

        `scope` names the graph that the key belongs to: bodies may use names again.
        """
        key = scope, weights.key
        found = self._addresses.get(key)
        if found is None:
            packed = np.ascontiguousarray(weights.pack())
            found = self._addresses[key] = self._put(packed), packed.nbytes
        return found

    def _put(self, packed: np.ndarray) -> int:
        size = packed.nbytes
        if not self._blocks or self._used + size + MARGIN > self._blocks[-1].size_bytes:
            self._blocks.append(Block(max(BLOCK_BYTES, size + MARGIN)))
            self._used = 0
        block, begin = self._blocks[-1], self._used
        block.array[begin : begin + size] = packed.reshape(-1).view(np.uint8)
        self._used = -(-(begin + size) // ALIGNMENT) * ALIGNMENT
        self.size_bytes += size
        return block.address + begin
