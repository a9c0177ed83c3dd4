"""Medians with intervals that assume nothing of how times are spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median


def median_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Return two of the values that enclose the true median with at least this confidence.

    The number of values below the median follows a binomial distribution with p = 1/2, so the
    interval runs between two order statistics (David and Nagaraja, "Order Statistics", 7.1).
    With too few values for the confidence it is the whole range.
    """
    if not values:
        raise ValueError("no values: expected at least one")
    ordered, n = sorted(values), len(values)
    cut, below = 0, 0.5**n  # probability that fewer than cut + 1 values lie below the median
    while 2 * below <= 1 - confidence and 2 * (cut + 1) < n:
        cut += 1
        below += math.comb(n, cut) * 0.5**n
    low = max(0, cut - 1)
    return ordered[low], ordered[n - 1 - low]


def geometric_mean(values: Sequence[float]) -> float:
    """Return the n-th root of the product; NaN of nothing."""
    if not values:
        return float("nan")
    return math.exp(sum(map(math.log, values)) / len(values))


def median_ratio(
    numerators: Sequence[float], denominators: Sequence[float]
) -> tuple[float, float, float]:
    """Return the median of ratios pair by pair, and its interval."""
    ratios = [a / b for a, b in zip(numerators, denominators, strict=True)]
    return (median(ratios), *median_interval(ratios))
