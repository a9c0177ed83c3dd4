"""What runs of each size cost, learned from the runs themselves."""

from __future__ import annotations

SMOOTHING = 0.1
FORGETTING = 0.02  # how fast the least cost drifts towards the mean when it is not seen again
CORRECTION = 0.25  # and towards a run that nothing disturbed


class CostModel:
    """Smoothed and least duration per size; sizes are kept by powers of two."""

    __slots__ = ("_least_us", "_mean_us")

    def __init__(self) -> None:
        """Know nothing yet."""
        self._mean_us: dict[int, float] = {}
        self._least_us: dict[int, float] = {}

    def learn(self, rows: int, us: float, *, undisturbed: bool = False) -> None:
        """Take one run into account; `undisturbed` if it had the interpreter to itself."""
        size = rows.bit_length()
        mean = self._mean_us.get(size)
        if mean is None:
            self._mean_us[size] = self._least_us[size] = us
            return
        mean += SMOOTHING * (us - mean)
        self._mean_us[size] = mean
        least = self._least_us[size]
        if us < least:
            self._least_us[size] = us
        elif undisturbed:
            self._least_us[size] = least + CORRECTION * (us - least)
        else:
            self._least_us[size] = least + FORGETTING * (mean - least)

    def mean_us(self, rows: int) -> float | None:
        """Return the expected duration, or None when nothing like it has run."""
        return _nearest(self._mean_us, rows)

    def least_us(self, rows: int) -> float | None:
        """Return what a run takes when nothing disturbs it, or None when nothing like it has run.

        A run in a thread is also charged for its waits for the interpreter; the least of many is
        close to what it would take without them.
        """
        return _nearest(self._least_us, rows)


def _nearest(table: dict[int, float], rows: int) -> float | None:
    """Look up a size; unseen, take the next smaller one times what it is smaller."""
    size = rows.bit_length()
    found = table.get(size)
    if found is not None or not table:
        return found
    smaller = max((known for known in table if known < size), default=None)
    if smaller is None:
        return table[min(table)]
    return table[smaller] * float(2 ** (size - smaller))
