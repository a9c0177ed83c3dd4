"""Named tensors of a request -> the model's inputs, checked against their specs.

On the server's hot path: for well-formed input this is one `np.array`, one cast and a comparison
of shapes for each tensor. Explanations are worked out only when something is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from server.errors import InvalidInput, LoadFailed
from server.tensors import TensorSpecLike

from .base import Arrays, BatchAxesLike, Prepared, TensorItem
from .values import to_array

HEAVY_ELEMENTS = 32_768  # reading this many from lists takes about a millisecond


class InputReader:
    """Reads one input of a model."""

    __slots__ = ("dtype", "name", "rank", "row_shape", "runs_over_rows", "shape")

    def __init__(self, spec: TensorSpecLike, runs_over_rows: bool) -> None:
        """Keep what reading needs of the spec."""
        self.name = spec.name
        self.dtype = _numpy_type(spec)
        self.shape = spec.shape
        self.rank = len(spec.shape)
        self.runs_over_rows = runs_over_rows
        static = all(isinstance(dim, int) for dim in spec.shape[1:])
        self.row_shape = spec.shape[1:] if static else None

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Say whether an array of this shape, rows included, can be fed."""
        if self.row_shape is not None and self.runs_over_rows:
            return shape[1:] == self.row_shape and self._fits_first(shape[0])
        return len(shape) == self.rank and all(
            isinstance(want, str) or want == have
            for want, have in zip(self.shape, shape, strict=True)
        )

    def _fits_first(self, rows: int) -> bool:
        first = self.shape[0]
        return isinstance(first, str) or first == rows

    def mismatch(self, shape: tuple[int, ...], field: str) -> InvalidInput:
        """Return the error that explains a wrong shape."""
        wanted = f"[{', '.join(map(str, self.shape))}]"
        if self.runs_over_rows:
            wanted += f" or, for one row, [{', '.join(map(str, self.shape[1:]))}]"
        return InvalidInput(
            f"{field}: expected shape {wanted}, got {list(shape)}",
            field=field,
            expected=wanted,
            got=list(shape),
        )


def _numpy_type(spec: TensorSpecLike) -> np.dtype[Any]:
    name = "object" if spec.dtype.startswith(("str", "bytes")) else spec.dtype
    try:
        return np.dtype(name)
    except TypeError:
        raise LoadFailed(
            f"input `{spec.name}` has type {spec.dtype}, which requests cannot carry"
        ) from None


def row_inputs(specs: Sequence[TensorSpecLike], batch: BatchAxesLike | None) -> frozenset[str]:
    """Return the inputs whose first axis counts rows.

    Without what the engine proved, that is taken to be every input whose first dim is a symbol.
    A first dim fixed to 1 is an axis of rows that is always one long.
    """
    if batch is not None:
        return batch.inputs
    return frozenset(
        spec.name
        for spec in specs
        if spec.shape and (isinstance(spec.shape[0], str) or spec.shape[0] == 1)
    )


class TensorReader:
    """Reads the tensors of an item for one model."""

    def __init__(self, specs: Sequence[TensorSpecLike], batch: BatchAxesLike | None = None) -> None:
        """Build one reader for each input."""
        over_rows = row_inputs(specs, batch)
        self._readers = tuple(InputReader(spec, spec.name in over_rows) for spec in specs)
        self._names = frozenset(reader.name for reader in self._readers)

    def is_heavy(self, item: TensorItem) -> bool:
        """Say whether reading the item takes longer than the event loop should wait."""
        return sum(_elements(value) for value in item.tensors.values()) > HEAVY_ELEMENTS

    def read(self, item: TensorItem) -> Prepared:
        """Return the item's tensors as the model's inputs.

        Raises:
            InvalidInput: missing or unknown names, wrong shapes, or values that do not fit.
        """
        tensors = item.tensors
        if tensors.keys() != self._names:
            raise self._wrong_names(tensors, item.field)
        inputs: Arrays = {}
        rows: int | None = None
        single = False
        for reader in self._readers:
            name = reader.name
            field = f"{item.field}.{name}"
            array = to_array(tensors[name], reader.dtype, field)
            if reader.runs_over_rows:
                if array.ndim == reader.rank - 1:
                    array = array[None]
                    single = True
                if array.ndim != reader.rank or not reader.fits(array.shape):
                    raise reader.mismatch(np.shape(tensors[name]), field)
                if rows is None:
                    rows = array.shape[0]
                if array.shape[0] != rows or rows == 0:
                    raise _wrong_rows(array.shape[0], rows, field)
            elif not reader.fits(array.shape):
                raise reader.mismatch(array.shape, field)
            inputs[name] = array
        if rows is None:  # nothing runs over rows: the item is the whole run
            return Prepared(inputs, 1, False)
        return Prepared(inputs, rows, single)

    def _wrong_names(self, tensors: Mapping[str, Any], field: str) -> InvalidInput:
        names = [reader.name for reader in self._readers]
        missing = [name for name in names if name not in tensors]
        unknown = [str(name)[:100] for name in tensors if name not in self._names]
        parts = [
            f"{word}: {', '.join(found)}"
            for word, found in (("missing", missing), ("unknown", unknown))
            if found
        ]
        return InvalidInput(
            f"{field}: the model's inputs are {', '.join(names)}; {'; '.join(parts)}",
            field=field,
            expected=names,
            got=[str(name)[:100] for name in tensors],
        )


def _wrong_rows(got: int, expected: int, field: str) -> InvalidInput:
    if got == 0:
        return InvalidInput(
            f"{field}: has no rows; send at least one", field=field, expected="1 row or more", got=0
        )
    return InvalidInput(
        f"{field}: has {got} rows, the inputs before it {expected}; they must be equal",
        field=field,
        expected=expected,
        got=got,
    )


def _elements(value: Any) -> int:
    """Return about how many elements nested lists hold, from the first list of each level."""
    count = 1
    while isinstance(value, list) and value:
        count *= len(value)
        value = value[0]
    return count
