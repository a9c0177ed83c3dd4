"""Recorded cases: what a network was fed and what ONNX Runtime answered, in one npz file.

An array lies under `in0:NAME` or `out0:NAME`, where 0 counts the cases. A sequence of maps (the
probabilities that scikit-learn's converters give) lies in two arrays, `out0.keys:NAME` and
`out0.values:NAME`, one row of values per map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]
Maps = list[dict[Any, Any]]
Answer = np.ndarray | Maps


@dataclass
class Case:
    """One run."""

    feeds: Arrays = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)


def write_cases(path: Path, cases: Sequence[Case]) -> None:
    """Write the cases of a network."""
    entries: Arrays = {}
    for i, case in enumerate(cases):
        entries.update({f"in{i}:{name}": array for name, array in case.feeds.items()})
        for name, answer in case.answers.items():
            entries.update(_entries(i, name, answer))
    np.savez_compressed(path, **entries)  # type: ignore[arg-type]


def _entries(i: int, name: str, answer: Answer) -> Arrays:
    if isinstance(answer, np.ndarray):
        return {f"out{i}:{name}": answer}
    keys = list(answer[0])
    values = np.array([[row[key] for key in keys] for row in answer], np.float32)
    return {f"out{i}.keys:{name}": np.array(keys), f"out{i}.values:{name}": values}


def read_cases(path: Path) -> list[Case]:
    """Read what `write_cases` wrote."""
    cases: dict[int, Case] = {}
    with np.load(path) as file:
        for entry in file.files:
            place, name = entry.split(":", 1)
            kind, _, part = place.partition(".")
            case = cases.setdefault(int(kind.lstrip("inout")), Case())
            if kind.startswith("in"):
                case.feeds[name] = _loaded(file[entry])
            elif not part:
                case.answers[name] = _loaded(file[entry])
            elif part == "keys":
                rows = file[f"{kind}.values:{name}"]
                keys = file[entry].tolist()
                case.answers[name] = [dict(zip(keys, row, strict=True)) for row in rows]
    return [cases[i] for i in sorted(cases)]


def _loaded(array: np.ndarray) -> np.ndarray:
    """Text is kept as numpy's fixed-width text, and is fed and given as Python strings."""
    return array.astype(object) if array.dtype.kind == "U" else array


def as_stored(answers: Mapping[str, Any]) -> dict[str, Answer]:
    """Return ONNX Runtime's answers in a form that can be written."""
    return {name: _stored(answer) for name, answer in answers.items()}


def _stored(answer: Any) -> Answer:
    if isinstance(answer, list):
        return answer
    array = np.asarray(answer)
    return array.astype(str) if array.dtype == object else array
