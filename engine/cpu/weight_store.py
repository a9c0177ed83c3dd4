"""Fixed values as kernels want them: packed once per plan, in large blocks on huge pages; plans of
one model for several sizes may share them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from threading import Lock
from weakref import WeakValueDictionary

import numpy as np

from engine.cpu.buffers import Weights
from engine.cpu.runtime.memory import Block

ALIGNMENT = 64
BLOCK_BYTES = 64 << 20
# Kernels read ahead of what they use: past the end of a panel lie zeros that belong to us.
MARGIN = 4096
DIGEST_BYTES = 16

Placing = Callable[[np.ndarray], np.ndarray]


class Room:
    """Memory in large blocks, filled one value after the other."""

    def __init__(self) -> None:
        self._block: Block | None = None
        self._used = 0

    def put(self, packed: np.ndarray) -> np.ndarray:
        """Return a value's bytes copied in; the block stays as long as one of its values does."""
        size = packed.nbytes
        if self._block is None or self._used + size + MARGIN > self._block.size_bytes:
            self._block, self._used = Block(max(BLOCK_BYTES, size + MARGIN)), 0
        begin = self._used
        placed = self._block.array[begin : begin + size]
        placed[:] = packed.reshape(-1).view(np.uint8)
        self._used = -(-(begin + size) // ALIGNMENT) * ALIGNMENT
        return placed


class Held:
    """A packed value in memory, which stays as long as somebody holds this.

    Attributes:
        array: Its bytes.
        is_own: Whether its memory is the pool's, not lent by one of the plans.
    """

    __slots__ = ("__weakref__", "array", "is_own")

    def __init__(self, array: np.ndarray, *, is_own: bool) -> None:
        self.array, self.is_own = array, is_own


def digest_of(content: np.ndarray) -> str:
    """Return what tells packed bytes from others."""
    return hashlib.blake2b(content.data, digest_size=DIGEST_BYTES).hexdigest()


class WeightPool:
    """Packed values of several plans, equal bytes once. Thread-safe.

    It holds nothing itself: what no plan uses any longer goes.
    """

    def __init__(self) -> None:
        self._held: WeakValueDictionary[str, Held] = WeakValueDictionary()
        self._room = Room()
        self._lock = Lock()

    def hold(self, packed: np.ndarray) -> Held:
        """Return these bytes in memory."""
        return self._find(packed, self._room.put, is_own=True)

    def lend(self, arrays: Iterable[np.ndarray]) -> list[Held]:
        """Let others find bytes that lie in memory already, as long as the result is held."""
        return [self._find(array, lambda placed: placed, is_own=False) for array in arrays]

    def known(self) -> dict[str, Held]:
        """Return what it has now by digest; that stays as long as the result is held."""
        with self._lock:
            return dict(self._held)

    def hold_as(self, digest: str, packed: np.ndarray) -> Held:
        """Return bytes whose digest somebody took already in memory."""
        return self._keep(digest, packed.reshape(-1).view(np.uint8), self._room.put, is_own=True)

    def _find(self, packed: np.ndarray, place: Placing, *, is_own: bool) -> Held:
        content = packed.reshape(-1).view(np.uint8)
        # Before the lock is taken: this is what takes long.
        return self._keep(digest_of(content), content, place, is_own=is_own)

    def _keep(self, key: str, content: np.ndarray, place: Placing, *, is_own: bool) -> Held:
        with self._lock:
            found = self._held.get(key)
            if found is None:
                found = self._held[key] = Held(place(content), is_own=is_own)
            return found

    @property
    def size_bytes(self) -> int:
        """Memory that the pool has for plans."""
        with self._lock:
            return sum(each.array.nbytes for each in self._held.values() if each.is_own)


class WeightStore:
    """Packed weights of one plan, by key. They lie in the order in which they are first used.

    Attributes:
        arrays: Their bytes.
        size_bytes: How many there are, shared ones included.
    """

    def __init__(self, pool: WeightPool | None = None) -> None:
        """Keep them for this plan alone, or in a pool."""
        self._pool, self._room = pool, Room()
        self._places: dict[tuple[str, str], tuple[int, int]] = {}
        self._held: list[Held] = []
        self.arrays: list[np.ndarray] = []
        self.size_bytes = 0

    def find(self, weights: Weights, scope: str = "") -> tuple[int, int]:
        """Return address and bytes of a fixed value, packing it if nobody has.

        `scope` names the graph that the key belongs to: bodies may use names again.
        """
        key = scope, weights.key
        found = self._places.get(key)
        if found is None:
            array = self._put(np.ascontiguousarray(weights.pack()))
            found = self._places[key] = int(array.ctypes.data), array.nbytes
            self.arrays.append(array)
            self.size_bytes += array.nbytes
        return found

    def _put(self, packed: np.ndarray) -> np.ndarray:
        if self._pool is None:
            return self._room.put(packed)
        self._held.append(self._pool.hold(packed))
        return self._held[-1].array
