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
        try:
            lane = self._free.pop()  # one operation of the list: needs no lock
        except IndexError:
            return self._make(size_bytes)
        if lane.size_bytes >= size_bytes:
            return lane
        with self._lock:
            self._made.discard(lane)
        return self._make(size_bytes)

    def _make(self, size_bytes: int) -> Lane:
        lane = Lane(size_bytes + size_bytes // 4)
        with self._lock:
            self._made.add(lane)
        return lane

    def give_back(self, lane: Lane) -> None:
        """Keep a lane for the next run."""
        self._free.append(lane)

    @property
    def size_bytes(self) -> int:
        """Memory of all lanes."""
        with self._lock:
            return sum(lane.size_bytes for lane in self._made)
