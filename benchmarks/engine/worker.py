"""Measures rows in a process of its own, so that a crash costs one row: reads tasks from standard
input and writes rows to standard output, a line of JSON each.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, Protocol

from benchmarks.engine import loading, photos, share, speed
from benchmarks.engine.rows import Key, Row
from benchmarks.engine.settings import Settings


class Figure(Protocol):
    """A module that measures the rows of a figure."""

    def measure(self, key: Key, settings: Settings) -> dict[str, Any]:
        """Return the row's values; any exception makes the row one that says why it failed."""

    def bounds(self, key: Key) -> dict[str, tuple[str, float]]:
        """Return the limits of values by name."""


FIGURES: dict[int, Figure] = {1: speed, 2: speed, 3: speed, 4: share, 5: loading, 6: speed}


def measure_row(key: Key, settings: Settings) -> Row:
    """Return the row, or one that says why there is none."""
    figure: Figure = photos if key.network == photos.NAME else FIGURES[key.figure]
    row = Row(key, bounds=figure.bounds(key))
    try:
        row.values = figure.measure(key, settings)
    except Exception as error:  # whatever went wrong is this row's result
        row.failed = f"{type(error).__name__}: {error}"[:600]
    return row


def main() -> None:
    """Answer tasks until the input ends."""
    # What native libraries print must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        task = json.loads(line)
        row = measure_row(Key(**task["key"]), Settings(**task["settings"]))
        answers.write(json.dumps(row.as_dict()) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
