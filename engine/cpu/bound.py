"""A region over static arrays: what a run needs is packed once per number of rows, so that a run is
one call of native code with next to nothing around it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from engine.cpu.addresses import address_of
from engine.cpu.binding import ABSOLUTE
from engine.cpu.buffers import Buffer, Place
from engine.cpu.code_store import CodeStore, Handle
from engine.cpu.kernel import Kernel
from engine.cpu.region import CompiledRegion
from engine.cpu.runtime.memory import PAGE, Block
from engine.cpu.runtime.program import PreparedRun, ResolvedStep
from engine.cpu.target import Target
from engine.device import StaticArrays, TailStep

# Named, and imported when one is asked for: most models are bound without a tail.
TAILS: Final = "engine.cpu.tails"
Array = np.ndarray[Any, Any]


def _kernel_of(step: TailStep) -> Kernel | None:
    """Return the kernel that a step gives or names."""
    if isinstance(step.kernel, Kernel):
        return step.kernel
    tails: Any = importlib.import_module(TAILS)
    found: Kernel | None = tails.TAILS.get(step.kernel)
    return found


@dataclass(frozen=True)
class _Tail:
    """The kernels after the region's own."""

    steps: tuple[TailStep, ...] = ()
    handles: tuple[Handle, ...] = ()
    scratch_bytes: int = 0

    def resolved(self, rows: int) -> list[ResolvedStep]:
        """Return the steps for so many rows."""
        return [
            ResolvedStep(
                address=handle.address,
                operands=tuple((ABSOLUTE, address_of(array), 0) for array in step.arrays),
                numbers=(rows,),
                tasks=rows,
            )
            for step, handle in zip(self.steps, self.handles, strict=True)
        ]


class StaticRegion:
    """Runs of one region over static arrays. Not thread-safe."""

    def __init__(
        self,
        region: CompiledRegion,
        inputs: Sequence[str],
        arrays: StaticArrays,
        *,
        target: Target,
        store: CodeStore,
        owner: object,
    ) -> None:
        """`inputs` are the names of the region's inputs in order; `owner` has its code and fixed
        values, which must live as long.
        """
        self._owner = owner
        self._region, self._arrays, self._target, self._store = region, arrays, target, store
        self._inputs = [(name, arrays.inputs[name]) for name in inputs]
        self._own: dict[str, Array] = {}  # results that cannot be written where they belong
        self._faults = np.zeros(len(region.program.faults), np.int64)
        self._tail = _Tail()
        self._arena: Block | None = None
        self._ready: dict[int, PreparedRun] = {}
        self._copies = self._states_apart()

    def run(self, rows: int) -> None:
        """Compute the outputs of the first rows; raises `RunFailed`."""
        ready = self._ready.get(rows) or self._prepare(rows)
        ready()
        if self._faults.any():
            self._tell()
        for state, result in self._copies:
            np.copyto(state, result)

    def append_tail(self, steps: Sequence[TailStep]) -> bool:
        """Run kernels after the region's own from now on; whether all of them are known here."""
        kernels = [kernel for step in steps if (kernel := _kernel_of(step)) is not None]
        if len(kernels) < len(steps):
            return False
        for array in (array for step in steps for array in step.arrays):
            if not array.flags.c_contiguous:
                raise ValueError(f"a tail's operands must be dense, got strides {array.strides}")
        found = self._store.get(kernels, self._target)
        before = self._tail
        scratch = max((k.scratch_bytes(self._target) for k in kernels), default=0)
        self._tail = _Tail(
            (*before.steps, *steps),
            (*before.handles, *(found[k] for k in kernels)),
            max(before.scratch_bytes, scratch),
        )
        self._ready.clear()
        return True

    def memory_bytes(self) -> int:
        """Return the bytes of intermediate values."""
        own = sum(array.nbytes for array in self._own.values())
        return own + (0 if self._arena is None else self._arena.size_bytes)

    # ------------------------------------------------------------------ before the first run

    def _states_apart(self) -> list[tuple[Array, Array]]:
        """Return states whose next value must not be written over the present one, with arrays for
        that; they are copied after a run.
        """
        program, arrays = self._region.program, self._arrays
        results = {b.name: b for b in program.outputs}
        found = []
        for number, (name, array) in enumerate(self._inputs):
            after = arrays.state.get(name)
            if after is None or self._in_place(number, results.get(after)):
                continue
            self._own[after] = np.zeros_like(array)
            found.append((array, self._own[after]))
        return found

    def _in_place(self, number: int, result: Buffer | None) -> bool:
        """Whether nothing reads an input but steps that write `result` element by element."""
        given = self._region.program.inputs[number]
        for step in self._region.program.steps:
            if all(b.root[0] is not given for b in (*step.reads, *step.writes)):
                continue
            if not step.in_place or step.writes[0] is not result or given not in step.reads:
                return False
        return result is not None and result.place is Place.OUTPUT and result.parent is None

    def _prepare(self, rows: int) -> PreparedRun:
        """Bind the program to so many rows, with the addresses of all arrays."""
        region, arrays = self._region, self._arrays
        inputs = [arrays.of(name, array, rows) for name, array in self._inputs]
        key = tuple(array.shape for array in inputs)
        tail = self._tail
        bound = region.binder.bind(key, tail.resolved(rows), tail.scratch_bytes)
        region.note_memory(bound)
        outputs = [
            self._result(buffer.name, shape, dtype)
            for buffer, (shape, dtype) in zip(region.program.outputs, bound.outputs, strict=True)
        ]
        if self._arena is None or self._arena.size_bytes < bound.arena_bytes:
            self._arena = Block(max(bound.arena_bytes, PAGE))
        begin = address_of(self._faults)
        pointers = [0, self._arena.address, 0, *map(address_of, inputs), *map(address_of, outputs)]
        pointers += range(begin, begin + self._faults.nbytes, self._faults.itemsize)
        # What lies in memory of its own stays alive as long as the run does.
        ready = bound.native.prepare(pointers, region.threads, (self._arena, inputs, outputs, tail))
        self._ready[rows] = ready
        return ready

    def _result(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return the array that takes a result: a static one, or one for what nobody asked for."""
        found = self._own.get(name)
        if found is None:
            found = self._arrays.outputs.get(name)
        if found is None:
            return np.zeros(shape, dtype)
        if found.shape[1:] != shape[1:] or found.nbytes < np.prod(shape) * dtype.itemsize:
            raise ValueError(f"output {name!r}: an array of {found.shape} for {shape}")
        return found

    def _tell(self) -> None:
        first = int(self._faults.nonzero()[0][0])
        self._faults[:] = 0
        self._region.fail(first)
