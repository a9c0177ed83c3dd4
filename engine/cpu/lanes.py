"""Memory that runs borrow: one lane per run at a time, kept for the next one."""

from __future__ import annotations

from threading import Lock

from engine.cpu.runtime.memory import PAGE, Block


class Lane:
    """The arena of one run."""

    __slots__ = ("address", "block", "size_bytes")

    def __init__(self, size_bytes: int) -> None:
        self.block = Block(max(size_bytes, PAGE))
        self.address, self.size_bytes = self.block.address, self.block.size_bytes


class Lanes:
    """The lanes of one plan. Thread-safe; as many exist as runs overlapped at the most."""

    def __init__(self) -> None:
        self._free: list[Lane] = []
        self._made: set[Lane] = set()
        self._lock = Lock()

    def take(self, size_bytes: int) -> Lane:
        """Return a lane of at least this size."""
        with self._lock:
            lane = self._free.pop() if self._free else None
            if lane is not None and lane.size_bytes >= size_bytes:
                return lane
            if lane is not None:
                self._made.discard(lane)
        lane = Lane(size_bytes + size_bytes // 4)
        with self._lock:
            self._made.add(lane)
        return lane

    def give_back(self, lane: Lane) -> None:
        """Keep a lane for the next run."""
        with self._lock:
            self._free.append(lane)

    @property
    def size_bytes(self) -> int:
        """Memory of all lanes."""
        return sum(lane.size_bytes for lane in self._made)
