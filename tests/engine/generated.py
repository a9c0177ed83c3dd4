"""Generated tensors: every kind of number that has ever broken a kernel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.dtypes import DType

SPECIAL = (
    *(np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 6e-8, 1.0, -1.0, 3.0, -3.0),
    *(0.5, 1.5, 2.5, -0.5, -1.5, -2.5),  # halves: which way do they round
    *(88.9, -104.5, 1e30, -1e30),  # where exp overflows and underflows
)


def tensor(
    dtype: DType, shape: Sequence[int], rng: np.random.Generator, *, special: bool = True
) -> np.ndarray:
    """Return a tensor of ordinary numbers with special values strewn in."""
    size = int(np.prod(shape))
    if dtype is DType.BOOL:
        return rng.integers(0, 2, shape).astype(bool)
    if dtype is DType.STRING:
        return rng.choice(np.array(["a", "b", "ab", ""], dtype=object), shape)
    if dtype.is_float:
        values = rng.standard_normal(size) * 3
        chosen = rng.permutation(SPECIAL)[: size // 2 if special else 0]
        values[: len(chosen)] = chosen
        with np.errstate(all="ignore"):  # 1e30 is infinity in narrow types
            return rng.permutation(values).reshape(shape).astype(dtype.numpy)
    bounds = np.iinfo(dtype.numpy)
    numbers = rng.integers(-9 if dtype.is_signed else 0, 10, size).astype(dtype.numpy)
    if special and size > 4:
        numbers[:2] = bounds.max, bounds.min
    return rng.permutation(numbers).reshape(shape)
