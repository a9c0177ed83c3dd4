"""Slots over a model of tables whose search is native code, without a compiled model around it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.cpu.tails import TAILS
from engine.cpu.target import Target, host_target
from engine.generation.recomputing import PrefixModel, RecomputingSlots
from engine.generation.search import SlotSizes
from tests.engine.cpu.harness import loaded

POINTER, NUMBER = ctypes.c_void_p, ctypes.c_int64


class NativeSlots(RecomputingSlots):
    """Runs the tail's kernels after each step, their tasks cut in two."""

    def __init__(self, model: PrefixModel, sizes: SlotSizes, target: Target | None = None) -> None:
        super().__init__(model, sizes)
        self._target = target or host_target()
        self._tail: list[tuple[Any, NDArray[np.int64]]] = []
        self._kept: list[Any] = []

    def append_tail(self, steps: Sequence[tuple[str, Sequence[NDArray[Any]]]]) -> bool:
        for name, arrays in steps:
            code = loaded(TAILS[name], self._target)
            function = code.function("kernel", POINTER, POINTER, NUMBER, NUMBER, POINTER)
            assert all(array.flags.c_contiguous for array in arrays)
            pointers = np.array([array.ctypes.data for array in arrays], np.int64)
            self._tail.append((function, pointers))
            self._kept += arrays
        return True

    def run(self, rows: int) -> None:
        super().run(rows)
        numbers = np.array([rows], np.int64)
        for function, pointers in self._tail:
            for low, high in ((0, rows // 2), (rows // 2, rows)):
                function(pointers.ctypes.data, numbers.ctypes.data, low, high, None)
