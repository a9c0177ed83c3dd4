"""Static slots of a model: inputs and outputs of fixed size that are written and read in place, and
runs over their first rows without a copy. Made by `Model.bind`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from engine.device import BindablePlan, Plan, StaticArrays, StaticRun, TailStep
from engine.errors import InvalidInput, ModelClosed
from engine.ir.graph import Array, Value
from engine.ir.types import TensorType, evaluate, symbols_of

LINE: Final = 64  # bytes to which arrays are aligned


class Slots:
    """Arrays that belong to a model's inputs and outputs, and runs over their first rows.

    Not thread-safe: one thread writes, runs and reads. Slots go on after the model they came from
    was closed only until they are closed themselves: `run` refuses then.

    Attributes:
        inputs: An array per input, at full size, zeros at first. Write into it; `run` looks there.
        outputs: An array per output, at full size. An output that is a state is its input's array.
        rows: How many rows there are at the most.
        is_native: Whether a run is one call of native code.
    """

    def __init__(self, plan: Plan, arrays: StaticArrays, rows: int) -> None:
        self.inputs, self.outputs, self.rows = arrays.inputs, arrays.outputs, rows
        native = plan.bind_static(arrays) if isinstance(plan, BindablePlan) else None
        self.is_native = native is not None
        self._run: StaticRun | None = native or _PlainRun(plan, arrays)
        self._bytes = sum({id(a): a.nbytes for a in _all(arrays)}.values())

    def run(self, rows: int | None = None) -> None:
        """Compute the outputs of the first `rows` rows, by default of all; states change in place.

        Raises:
            InvalidInput: There are not so many rows.
            RunFailed: An operator could not compute these values; states may have changed.
            ModelClosed: The slots were closed before.
        """
        run = self._run
        if run is None:
            raise ModelClosed("these slots are closed; bind the model again")
        count = self.rows if rows is None else rows
        if not 0 < count <= self.rows:
            raise InvalidInput(f"expected 1 to {self.rows} rows, got {count}")
        run.run(count)

    def append_tail(self, steps: Sequence[TailStep]) -> bool:
        """Run kernels of the device's own after every run, within the same native call.

        Returns:
            Whether the device can; nothing is appended otherwise.
        """
        if self._run is None:
            raise ModelClosed("these slots are closed; bind the model again")
        done: bool = self._run.append_tail(steps)
        return done

    def memory_bytes(self) -> int:
        """Return the bytes of all arrays, and of what runs need besides."""
        return int(self._bytes) + (0 if self._run is None else self._run.memory_bytes())

    def close(self) -> None:
        """Refuse further runs and let go of the model. The arrays stay until nobody holds them."""
        self._run = None


class _PlainRun:
    """Runs on any device: values go in and out by copies."""

    def __init__(self, plan: Plan, arrays: StaticArrays) -> None:
        self._plan, self._arrays = plan, arrays
        self._names = tuple(arrays.outputs)

    def run(self, rows: int) -> None:
        """Run once, and copy the results to where they belong."""
        arrays = self._arrays
        feeds = {name: arrays.of(name, array, rows) for name, array in arrays.inputs.items()}
        for name, result in self._plan.run(feeds, self._names).items():
            np.copyto(arrays.of(name, arrays.outputs[name], rows), result)

    def append_tail(self, steps: Sequence[TailStep]) -> bool:
        """Refuse: there is no native program to append to."""
        return False

    def memory_bytes(self) -> int:
        """Return nothing: a run's memory is gone when it ends."""
        return 0


def static_arrays(
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    sizes: Mapping[str, int],
    rows: str,
    state: Mapping[str, str],
) -> StaticArrays:
    """Return zeroed arrays for inputs and outputs at these sizes; a state's two names share one.

    Raises:
        InvalidInput: A size is missing, or states or rows do not fit the model.
    """
    if rows not in sizes:
        raise InvalidInput(f"rows={rows!r} is none of the sizes {sorted(sizes)}")
    shapes = {v.name: _shape(v, sizes, rows) for v in (*inputs, *outputs)}
    by_row = frozenset(v.name for v in (*inputs, *outputs) if _counts_rows(v, rows))
    feeds = {v.name: _zeros(shapes[v.name], _tensor(v)) for v in inputs}
    types = {v.name: _tensor(v) for v in (*inputs, *outputs)}
    results = {}
    for before, after in state.items():
        if before not in feeds or after not in {v.name for v in outputs}:
            raise InvalidInput(
                f"state {before!r} -> {after!r}: expected an input out of {sorted(feeds)} and an "
                f"output out of {[v.name for v in outputs]}"
            )
        same = shapes[before] == shapes[after] and types[before].dtype is types[after].dtype
        if not same or before in by_row or after in by_row:
            raise InvalidInput(
                f"state {before!r} -> {after!r}: expected one type and shape that does not depend "
                f"on {rows!r}, got {types[before]} and {types[after]}"
            )
        results[after] = feeds[before]
    for v in outputs:
        if v.name not in results:
            results[v.name] = _zeros(shapes[v.name], types[v.name])
    return StaticArrays(feeds, results, by_row, dict(state))


def _tensor(value: Value) -> TensorType:
    if not isinstance(value.type, TensorType) or value.type.shape is None:
        raise InvalidInput(f"{value.name!r} is {value.type}: only tensors of known rank are bound")
    return value.type


def _shape(value: Value, sizes: Mapping[str, int], rows: str) -> tuple[int, ...]:
    shape = _tensor(value).shape or ()
    for axis, dim in enumerate(shape):
        missing = sorted(symbols_of(dim) - sizes.keys())
        if missing:
            raise InvalidInput(
                f"{value.name!r} has the shape {[str(d) for d in shape]}: expected sizes for "
                f"{missing} too"
            )
        if rows in symbols_of(dim) and (axis or str(dim) != rows):
            raise InvalidInput(
                f"{value.name!r} has the shape {[str(d) for d in shape]}: rows must be counted by "
                f"{rows!r} on the first axis and nowhere else"
            )
    found = tuple(evaluate(dim, sizes) for dim in shape)
    if any(size < 0 for size in found):
        raise InvalidInput(f"{value.name!r} would have the shape {list(found)}")
    return found


def _counts_rows(value: Value, rows: str) -> bool:
    shape = _tensor(value).shape
    return bool(shape) and str(shape[0]) == rows if shape else False


def _zeros(shape: tuple[int, ...], kind: TensorType) -> Array:
    """Return zeros that begin at a cache line; pages come when they are written."""
    dtype = kind.dtype.numpy
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    memory = np.zeros(size + LINE, np.uint8)
    skip = -memory.ctypes.data % LINE
    return memory[skip : skip + size].view(dtype).reshape(shape)


def _all(arrays: StaticArrays) -> list[Array]:
    return [*arrays.inputs.values(), *arrays.outputs.values()]
