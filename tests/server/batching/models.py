"""Stand-ins for engine models: exact row by row, so that batched and alone must be identical."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

import engine


@dataclass(frozen=True)
class Spec:
    name: str


@dataclass(frozen=True)
class Axes:
    inputs: frozenset[str] = frozenset({"x"})
    outputs: frozenset[str] = frozenset({"y", "sum"})


POISON = -666.0  # a row that holds it fails the whole run, as a bad value does in an operator


class RowModel:
    """`y = 2x + 1`, `sum` per row; counts its calls, and can be held at a gate."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def run(
        self, inputs: Mapping[str, np.ndarray], fetches: tuple[str, ...] | None
    ) -> dict[str, np.ndarray]:
        x = inputs["x"]
        self.calls.append(len(x))
        self.entered.set()
        if not self.gate.wait(timeout=300):
            raise TimeoutError("the test never opened the gate")
        if (x == POISON).any():
            raise engine.RunFailed("node_7", "Gather", "index out of range")
        values = {"y": x * 2 + 1, "sum": x.sum(axis=1), "mean": x.mean() if len(x) else 0.0}
        return {name: values[name] for name in fetches or ("y", "sum")}
