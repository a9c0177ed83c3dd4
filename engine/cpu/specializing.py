"""Open sizes of pictures: a plan per size, compiled in the background while a general one serves.

Kernels on pictures have fixed heights and widths in them. A model that leaves these open runs its
convolutions from their portable definitions at first; each combination of sizes that comes is
compiled in the background, and used from then on. A run never waits for that. The latest few
combinations are kept. They share packed weights of equal bytes and the memory of their runs
(`engine.cpu.beside`). A model that was read from its compiled file is compiled for sizes by a child
process (`engine.cpu.size_child`); one that was compiled here, by a thread, whose kernels a child
compiles.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from engine.cpu.beside import Beside
from engine.cpu.code_store import Handle
from engine.cpu.compiled import Coverage
from engine.device import Measured, Plan, RunControl
from engine.errors import EngineError, ResourceLimit, RunCancelled
from engine.evaluation import evaluate_graph
from engine.ir.graph import Array, Graph, Value
from engine.ir.types import TensorType, symbols_of
from engine.limits import Deadline, Limits
from engine.ops.registry import Registry

KEPT = 8  # combinations of sizes with a plan of their own
RETRY_S = 300.0  # until sizes that time or memory did not suffice for are tried again
WAITING = 4  # combinations that may wait to be compiled; further ones come again
PICTURE_RANK = 3  # tensors of this rank and more may be pictures

_log = logging.getLogger(__name__)
Sizes = tuple[int, ...]


class CoveredPlan(Plan, Measured, Protocol):
    """A plan that knows which nodes have native code."""

    coverage: tuple[Coverage, ...]
    code: Sequence[Handle]


def open_symbols(graph: Graph, coverage: Iterable[Coverage]) -> tuple[str, ...]:
    """Return the symbols whose numbers would give more nodes native code, sorted.

    They are symbols of portable nodes' pictures that inputs tell by themselves, the batch apart.
    """
    found: set[str] = set()
    for each in coverage:
        if each.reason is None or each.graph != graph.name:
            continue
        for name in (*each.node.inputs, *each.node.outputs):
            kind = graph.types.get(name)
            shape = kind.shape if isinstance(kind, TensorType) else None
            if shape is not None and len(shape) >= PICTURE_RANK:
                found |= {symbol for dim in shape[1:] for symbol in symbols_of(dim)}
    return tuple(sorted(found & _told(graph).keys()))


def _told(graph: Graph) -> dict[str, tuple[str, int]]:
    """Return which input and axis tell a symbol; never the leading one, which is the batch."""
    told: dict[str, tuple[str, int]] = {}
    for value in graph.inputs:
        shape = value.type.shape if isinstance(value.type, TensorType) else None
        for axis, dim in enumerate(shape or ()):
            if axis and not isinstance(dim, int) and dim.is_symbol:
                told.setdefault(str(dim), (value.name, axis))
    return told


def specialized(
    graph: Graph, sizes: Mapping[str, int], registry: Registry, limits: Limits
) -> Graph:
    """Return the graph with numbers in place of symbols, typed anew."""
    inputs = tuple(
        Value(v.name, v.type.substitute(sizes)) if isinstance(v.type, TensorType) else v
        for v in graph.inputs
    )
    deadline = Deadline(limits.load_s)
    given = graph.replace(inputs=inputs)
    return evaluate_graph(given, registry, limits=limits, deadline=deadline).graph


class SpecializingPlan:
    """A general plan, and plans for sizes that came. Thread-safe."""

    def __init__(
        self,
        graph: Graph,
        general: CoveredPlan,
        symbols: Sequence[str],
        compile_sizes: Callable[[Mapping[str, int]], CoveredPlan],
        beside: Beside,
        cancel: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve with `general`.

        Args:
            graph: The graph.
            general: Its plan for all sizes.
            symbols: The sizes that plans are made for.
            compile_sizes: Makes the plan for numbers of `symbols`.
            beside: Memory of these plans.
            cancel: Has `compile_sizes` give up soon, when the plan is closed.
        """
        self.coverage, self._beside, self._cancel = general.coverage, beside, cancel
        self._general, self._symbols, self._compile = general, tuple(symbols), compile_sizes
        told = _told(graph)
        self._axes = [told[symbol] for symbol in self._symbols]
        self._plans: OrderedDict[Sizes, CoveredPlan | None] = (
            OrderedDict()
        )  # None: it cannot be made
        self._again: dict[Sizes, float] = {}  # when to try again what has no plan
        self._waiting: deque[Sizes] = deque()
        self._lock = threading.Lock()
        self._worker: threading.Thread | None = None
        self._closed = False

    def run(
        self,
        feeds: Mapping[str, Array],
        fetches: Sequence[str],
        control: RunControl | None = None,
    ) -> dict[str, Array]:
        """Compute `fetches` from a value for every input."""
        sizes = tuple([feeds[name].shape[axis] for name, axis in self._axes])
        return (self._plan_for(sizes) or self._general).run(feeds, fetches, control)

    def memory(self) -> Mapping[str, int]:
        """Return the bytes of all plans together, what they share counted once."""
        with self._lock:
            plans = [self._general, *(p for p in self._plans.values() if p is not None)]
        general, *others = (plan.memory() for plan in plans)
        code = {id(handle): handle.code_bytes for plan in plans for handle in plan.code}
        return {
            "weights_bytes": general["weights_bytes"] + self._beside.weights.size_bytes,
            "arena_bytes": general["arena_bytes"] + self._beside.lanes.size_bytes,
            "code_bytes": sum(code.values()),
            "scratch_bytes": max(part["scratch_bytes"] for part in (general, *others)),
        }

    def least_seconds(self, flops: float, size_bytes: float) -> float:
        """Return what arithmetic and memory traffic take at this machine's measured peak."""
        return self._general.least_seconds(flops, size_bytes)

    def wait(self, timeout_s: float) -> bool:
        """Wait until nothing is being compiled; return whether that came in time."""
        worker = self._worker
        if worker is not None:
            worker.join(timeout_s)
        return worker is None or not worker.is_alive()

    def close(self) -> None:
        """Compile nothing any more; what is being compiled is given up. Runs go on."""
        with self._lock:
            self._closed = True
        self._cancel()

    def _plan_for(self, sizes: Sizes) -> CoveredPlan | None:
        with self._lock:
            if sizes in self._plans:
                self._plans.move_to_end(sizes)
                if time.monotonic() < self._again.get(sizes, math.inf):
                    return self._plans[sizes]
            room = len(self._waiting) < WAITING and not self._closed
            if room and sizes not in self._waiting:
                self._waiting.append(sizes)
                if self._worker is None:
                    self._worker = threading.Thread(
                        target=self._compile_waiting, name="millrace-sizes", daemon=True
                    )
                    self._worker.start()
        return None

    def _compile_waiting(self) -> None:
        while True:
            with self._lock:
                if self._closed or not self._waiting:
                    self._worker = None
                    return
                sizes = self._waiting[0]
            plan, again = self._compile_one(sizes)
            with self._lock:
                self._waiting.popleft()
                if self._closed:
                    continue
                self._plans[sizes], self._again[sizes] = plan, again
                while len(self._plans) > KEPT:
                    del self._again[self._plans.popitem(last=False)[0]]

    def _compile_one(self, sizes: Sizes) -> tuple[CoveredPlan | None, float]:
        """Return the plan, or None and the time from which on it may be tried again."""
        try:
            return self._compile(dict(zip(self._symbols, sizes, strict=True))), math.inf
        except RunCancelled:
            return None, math.inf
        except (EngineError, MemoryError, OSError, RuntimeError) as error:
            reason = "no plan for %s = %s, which the general one goes on to serve: %s"
            _log.warning(reason, self._symbols, sizes, error)
            passes = isinstance(error, (ResourceLimit, MemoryError, OSError))
            return None, time.monotonic() + RETRY_S if passes else math.inf


__all__ = ["SpecializingPlan", "open_symbols", "specialized"]
