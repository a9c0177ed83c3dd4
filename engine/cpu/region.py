"""A region at run time: a native program, bound to shapes, run on the caller's arrays."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from itertools import starmap
from threading import Lock
from typing import Any

import numpy as np

from engine.cpu.addresses import address_of
from engine.cpu.binding import Binder, Bound, Shapes
from engine.cpu.buffers import Program
from engine.cpu.lanes import Lanes
from engine.cpu.runtime.program import CancelFlag
from engine.errors import RunCancelled, RunFailed
from engine.ir.graph import Node

_empty = np.empty  # looked up once: every call of a small model feels it
_array = np.ndarray
REMEMBERED_BINDINGS = 64

Array = Any
# Told after a watched run: a node, the seconds that its steps took, what symbols stood for, and
# the names of its kernels.
Watcher = Callable[[Node, float, Mapping[str, int], str], None]


def _dense(x: Array, dtype: np.dtype[Any]) -> Array:
    """Return a dense array of this type; portable nodes may give numpy's scalars, which are none.

    The types of native code are single objects, by and large, so that looking is enough.
    """
    if type(x) is _array and x.dtype is dtype and x.flags.c_contiguous:
        return x
    return np.asarray(x, dtype, order="C")


class CompiledRegion:
    """A region ready to run. Thread-safe: every run has a lane of its own."""

    def __init__(self, program: Program, binder: Binder, threads: int, lanes: Lanes) -> None:
        """Run a program on up to `threads` cores, in memory from `lanes`."""
        self.program = program
        self.binder, self.threads, self._lanes = binder, threads, lanes
        self._dtypes = [b.plain.dtype.numpy for b in program.inputs]
        self.outputs = tuple(b.name for b in program.outputs)
        self._fault_count = len(program.faults)
        self._bound: OrderedDict[Shapes, Bound] = OrderedDict()
        self._lock = Lock()
        self.scratch_bytes = 0  # of the cores' own memory: what the largest binding so far takes

    def run(
        self,
        inputs: Sequence[Array],
        watch: Watcher | None = None,
        cancel: CancelFlag | None = None,
    ) -> list[Array]:
        """Compute the outputs; inputs of wrong shapes are an `InvalidInput`.

        Raises `RunCancelled` soon after `cancel` was set.
        """
        if len(inputs) != len(self._dtypes):
            raise ValueError(f"expected {len(self._dtypes)} inputs, got {len(inputs)}")
        arrays = [*map(_dense, inputs, self._dtypes)]
        key = tuple([x.shape for x in arrays])
        bound = self._bound.get(key) or self._bind(key)
        outputs = [*starmap(_empty, bound.outputs)]
        faults = np.zeros(self._fault_count, np.int64) if self._fault_count else None
        lane = self._lanes.take(bound.arena_bytes)
        try:
            pointers = [0, lane.address, 0, *map(address_of, arrays), *map(address_of, outputs)]
            if faults is not None:
                begin = address_of(faults)
                pointers += range(begin, begin + faults.nbytes, faults.itemsize)
            if watch is not None:
                self._run_watched(bound, pointers, watch)
            elif bound.native.run(pointers, self.threads, None, cancel):
                raise RunCancelled(f"cancelled among the nodes that compute {self.outputs[0]!r}")
        finally:
            self._lanes.give_back(lane)
        if faults is not None and faults.any():
            self.fail(int(faults.nonzero()[0][0]))
        return outputs

    def note_memory(self, bound: Bound) -> None:
        """Take in how much of the cores' own memory a binding takes."""
        self.scratch_bytes = max(self.scratch_bytes, bound.native.scratch_bytes(self.threads))

    def _bind(self, key: Shapes) -> Bound:
        bound = self.binder.bind(key)
        with self._lock:
            self.note_memory(bound)
            self._bound[key] = bound
            while len(self._bound) > REMEMBERED_BINDINGS:
                self._bound.popitem(last=False)
        return bound

    def fail(self, index: int) -> None:
        """Raise what a fault that a kernel noted stands for."""
        fault = self.program.faults[index]
        raise RunFailed(fault.node.label, fault.node.op, fault.message)

    def _run_watched(self, bound: Bound, pointers: list[int], watch: Watcher) -> None:
        """Run with a time stamp at both ends of every step, and tell what each node took."""
        stamps = np.zeros((len(self.program.steps), 2), np.int64)
        bound.native.run(pointers, self.threads, stamps)
        seconds = (stamps[:, 1] - stamps[:, 0]).clip(0) * 1e-9
        totals: dict[int, tuple[Node, float, dict[str, None]]] = {}
        for step, taken in zip(self.program.steps, seconds, strict=True):
            _, before, kernels = totals.get(id(step.node), (step.node, 0.0, {}))
            kernels[step.kernel.label] = None
            totals[id(step.node)] = step.node, before + float(taken), kernels
        for node, total, kernels in totals.values():
            watch(node, total, bound.bindings, "+".join(kernels))
