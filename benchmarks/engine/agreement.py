"""How far two sides' outputs are apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Agreement:
    """The worst over all outputs.

    Attributes:
        error: Largest absolute difference over the largest absolute value of the reference.
        cosine: Of the flattened outputs.
        unequal: Share of differing values of outputs that are not floating-point.
    """

    error: float
    cosine: float
    unequal: float


def compare(
    ours: Mapping[str, Array], theirs: Mapping[str, Array], named_by: str = ""
) -> Agreement:
    """Compare all outputs by name.

    Args:
        ours: Outputs to judge.
        theirs: Outputs to judge them by.
        named_by: Integer output (rows, columns) whose rows name the rows of all outputs: these may
            then come in another order, and those that one side lacks count as differing only.

    Raises:
        ValueError: Names, shapes or types differ, or a value is not finite.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(f"outputs {sorted(ours)}; expected {sorted(theirs)}")
    error, cosine, unequal = 0.0, 1.0, 0.0
    if named_by:
        ours, theirs, unequal = matched(ours, theirs, named_by)
    for name, expected in theirs.items():
        got = ours[name]
        if got.shape != expected.shape or got.dtype != expected.dtype:
            raise ValueError(
                f"output {name!r} is {got.dtype}{list(got.shape)}; "
                f"expected {expected.dtype}{list(expected.shape)}"
            )
        if expected.dtype.kind != "f":
            unequal = max(unequal, float(np.mean(got != expected)) if expected.size else 0.0)
            continue
        if not np.isfinite(got.astype(np.float64)).all():
            raise ValueError(f"output {name!r} holds values that are not finite")
        error = max(error, relative_error(got, expected))
        cosine = min(cosine, cosine_similarity(got, expected))
    return Agreement(error, cosine, unequal)


def matched(
    ours: Mapping[str, Array], theirs: Mapping[str, Array], named_by: str
) -> tuple[dict[str, Array], dict[str, Array], float]:
    """Return the rows that both sides have, in one order, and the share of those they have not."""
    sides = [{tuple(r): k for k, r in enumerate(s[named_by].tolist())} for s in (ours, theirs)]
    common = sorted(sides[0].keys() & sides[1].keys())
    rows = [np.array([side[row] for row in common], np.int64) for side in sides]
    kept = [
        {name: array[place] for name, array in outputs.items()}
        for outputs, place in zip((ours, theirs), rows, strict=True)
    ]
    most = max(*map(len, sides), 1)
    return kept[0], kept[1], 1.0 - len(common) / most if any(map(len, sides)) else 0.0


def relative_error(got: Array, expected: Array) -> float:
    """Return max |got - expected| / max |expected|; zero where both are empty or zero."""
    if not expected.size:
        return 0.0
    a, b = got.astype(np.float64), expected.astype(np.float64)
    difference, scale = float(np.abs(a - b).max()), float(np.abs(b).max())
    return difference / scale if scale else difference


def cosine_similarity(got: Array, expected: Array) -> float:
    """Return the cosine of the angle between both, as vectors; one where both are zero."""
    a, b = got.astype(np.float64).ravel(), expected.astype(np.float64).ravel()
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else float(np.array_equal(a, b))
