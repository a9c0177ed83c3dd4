"""The process-wide pool: a slot per core, lent to runs, and a worker thread per slot.

A run borrows some slots, computes on its own thread with the first one's memory, and lets the
workers of the others help. So the threads that compute are never more than the cores, whoever calls
and from however many threads. Workers start when they are first needed and end with the process.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections import deque
from operator import attrgetter
from typing import ClassVar

from engine.cpu.runtime.cores import allowed_cores
from engine.cpu.runtime.entry import Entry, native_entry
from engine.cpu.runtime.layout import MAX_CORES, SlotWord, Words, aligned_words
from engine.cpu.runtime.memory import Block
from engine.cpu.runtime.policy import grant
from engine.cpu.runtime.walker import DISMISS, SERVE

SPIN_US = 100  # how long a worker looks for the next job before it sleeps
CANCEL_LOOK_S = 0.02  # how often a run that waits for cores looks whether it was cancelled
_NUMBER = attrgetter("number")
JOIN_S = 2.0  # how long the end of the process waits for a worker in the midst of a run


class Slot:
    """One core of the pool.

    Attributes:
        number: Which one.
        address: Where its shared words lie.
        scratch_bytes: How much scratch memory it has; with `local_bytes`, what `reserve` was asked
            for at the most.
        local_bytes: How much local memory it has.
    """

    __slots__ = (
        "_local",
        "_scratch",
        "_words",
        "address",
        "local_bytes",
        "number",
        "scratch_bytes",
        "worker",
    )

    def __init__(self, number: int, spin_us: int) -> None:
        self.number = number
        self._words: Words = aligned_words(int(SlotWord.WORDS))
        self._words[SlotWord.SPIN_NS] = spin_us * 1000
        self.address = int(self._words.ctypes.data)
        self.worker: threading.Thread | None = None
        self._scratch: Block | None = None
        self._local: Block | None = None
        self.scratch_bytes = self.local_bytes = -1

    def reserve(self, scratch_bytes: int, local_bytes: int) -> None:
        """Have at least so much memory; only for who holds the slot."""
        if self.scratch_bytes < scratch_bytes:
            self._scratch = Block(scratch_bytes)
            self._words[SlotWord.SCRATCH] = self._scratch.address
            self.scratch_bytes = scratch_bytes
        if self.local_bytes < local_bytes:
            self._local = Block(local_bytes)
            self._words[SlotWord.LOCAL] = self._local.address
            self.local_bytes = local_bytes

    def set_crowded(self, crowded: bool) -> None:
        """Tell the worker whether runs wait for cores: then it does not spin."""
        self._words[SlotWord.CROWDED] = crowded

    @property
    def size_bytes(self) -> int:
        """Memory for computing that was reserved so far."""
        return sum(b.size_bytes for b in (self._scratch, self._local) if b is not None)


class _Waiter:
    __slots__ = ("gate", "slots", "wanted")

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.slots: list[Slot] = []
        self.gate = threading.Lock()
        self.gate.acquire()


class Pool:
    """Slots and workers. Thread-safe."""

    def __init__(self, cores: int | None = None, spin_us: int = SPIN_US) -> None:
        """Make a pool of `cores` slots, by default as many as the process may use."""
        self.cores = min(allowed_cores() if cores is None else cores, MAX_CORES)
        if self.cores < 1:
            raise ValueError(f"a pool needs at least one core, got {self.cores}")
        self._spin_us = spin_us
        self._entry: Entry = native_entry()
        self.reset()

    def reset(self) -> None:
        """Begin without threads and runs: at first, and in the child of a fork."""
        self._lock = threading.Lock()
        self._slots = [Slot(number, self._spin_us) for number in range(self.cores)]
        self._free = list(self._slots)
        self._queue: deque[_Waiter] = deque()
        self._closed = False

    # ------------------------------------------------------------------ lending

    def acquire(
        self, wanted: int, scratch_bytes: int, local_bytes: int, cancel: Words | None = None
    ) -> list[Slot]:
        """Return 1 to `wanted` slots, waiting until there is one; [] when cancelled meanwhile.

        The workers of all but the first are ready to take jobs.
        """
        waiter = None
        with self._lock:
            if self._free:  # nobody waits while cores are free
                slots = self._free[:wanted]
                del self._free[:wanted]
            else:
                waiter = _Waiter(wanted)
                self._queue.append(waiter)
                self._set_crowded(True)
        if waiter is not None:
            slots = self._wait(waiter, cancel)
        try:
            for slot in slots:
                if slot.scratch_bytes < scratch_bytes or slot.local_bytes < local_bytes:
                    slot.reserve(scratch_bytes, local_bytes)
                if slot.worker is None and slot is not slots[0]:
                    self._start_worker(slot)
        except BaseException:
            self.release(slots)
            raise
        return slots

    def release(self, slots: list[Slot]) -> None:
        """Take slots back and hand them to who waits."""
        with self._lock:
            free = self._free
            if free and slots[-1].number < free[0].number:  # as a rule: the first ones come back
                free[:0] = slots
            else:
                free += slots
                free.sort(key=_NUMBER)
            if self._queue:
                self._hand_out()

    def _hand_out(self) -> None:
        for count in grant([w.wanted for w in self._queue], len(self._free)):
            waiter = self._queue.popleft()
            waiter.slots = self._free[:count]
            del self._free[:count]
            waiter.gate.release()
        if not self._queue:
            self._set_crowded(False)

    def _wait(self, waiter: _Waiter, cancel: Words | None) -> list[Slot]:
        """Wait for slots; an interrupt or a cancel leaves the queue."""
        try:
            while not waiter.gate.acquire(timeout=-1 if cancel is None else CANCEL_LOOK_S):
                if cancel is not None and cancel[0]:
                    self._give_up(waiter)
                    return []
        except BaseException:
            self._give_up(waiter)
            raise
        return waiter.slots

    def _give_up(self, waiter: _Waiter) -> None:
        with self._lock:
            if waiter in self._queue:
                self._queue.remove(waiter)
                if not self._queue:
                    self._set_crowded(False)
                return
        self.release(waiter.slots)

    def _set_crowded(self, crowded: bool) -> None:
        for slot in self._slots:
            slot.set_crowded(crowded)

    # ------------------------------------------------------------------ workers

    def _start_worker(self, slot: Slot) -> None:
        """Start the slot's thread; where none can be had, callers do all the work themselves."""
        if self._closed:
            return
        name = f"millrace-core-{slot.number}"
        thread = threading.Thread(
            target=self._entry, args=(slot.address, SERVE), name=name, daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            return
        slot.worker = thread

    def close(self) -> None:
        """End the workers, each after the run that it takes part in; later runs go without."""
        self._closed = True
        workers = [(slot, slot.worker) for slot in self._slots if slot.worker is not None]
        for slot, _ in workers:
            self._entry(slot.address, DISMISS)
        for _, worker in workers:
            worker.join(JOIN_S)

    @property
    def lent(self) -> int:
        """How many cores runs have at this moment."""
        return self.cores - len(self._free)

    @property
    def waiting(self) -> int:
        """How many runs wait for cores."""
        return len(self._queue)

    @property
    def size_bytes(self) -> int:
        """Memory for computing that was reserved so far."""
        return sum(slot.size_bytes for slot in self._slots)


class _Shared:
    """The pool of this process, made when it is first asked for."""

    lock: ClassVar[threading.Lock] = threading.Lock()
    pool: ClassVar[Pool | None] = None


def shared_pool() -> Pool:
    """Return the pool of this process."""
    with _Shared.lock:
        if _Shared.pool is None:
            _Shared.pool = Pool()
            atexit.register(_Shared.pool.close)
        return _Shared.pool


def _after_fork() -> None:
    """Begin anew in a child: threads do not survive a fork, and locks may have been held."""
    _Shared.lock = threading.Lock()
    if _Shared.pool is not None:
        _Shared.pool.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
