"""A loaded model: checks what it is fed, runs it from any thread, tells what it is, and can be
closed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from threading import Condition, Lock
from types import TracebackType
from typing import Self

from engine.artifact import Artifact
from engine.device import ClosablePlan, Measured, Plan, RunControl
from engine.errors import InvalidInput, ModelClosed
from engine.feeds import FeedChecker
from engine.ir.graph import Array, Graph, Value
from engine.ir.types import TensorType
from engine.ir.value_types import MapType, ValueType
from engine.ir.values import copy_value
from engine.lowering.batch_axes import BatchAxes
from engine.ops.registry import REGISTRY, Registry
from engine.profiler import ProfileReport, Recorder
from engine.slots import Slots, static_arrays


@dataclass(frozen=True)
class TensorSpec:
    """An input or output: its name, numpy's name of its type, and a number or a symbol's name per
    dim.

    A shape of None means that not even the rank is known before a run. `kind` is "tensor", or the
    whole type of a sequence (a list of arrays), an optional (None or a value) or a map (a dict);
    element type and shape are then those of the tensors inside.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...] | None
    kind: str = "tensor"


@dataclass(frozen=True)
class MemoryReport:
    """Bytes that a model holds while it is loaded.

    Attributes:
        weights_bytes: Fixed values.
        arena_bytes: Intermediate values, of as many runs as overlapped at the most.
        code_bytes: Machine code.
        scratch_bytes: What its runs took at the most of the memory that each core has for
            itself. All models of a process share that memory, which is as large as the largest
            of them asked for.
    """

    weights_bytes: int
    arena_bytes: int
    code_bytes: int
    scratch_bytes: int = 0


@dataclass(frozen=True)
class Candidate:
    """A precision that was tried.

    Attributes:
        precision: Its name.
        seconds: What all samples took, None where it was not timed.
        reason: Why it will not do, "" where it agrees.
    """

    precision: str
    seconds: float | None
    reason: str


@dataclass(frozen=True)
class PrecisionChoice:
    """What precision "auto" came to.

    Attributes:
        precision: The one chosen.
        candidates: What was tried.
        reason: Why this one.
    """

    precision: str
    candidates: tuple[Candidate, ...]
    reason: str


class Model:
    """A model ready to run. Made by `engine.load`; thread-safe; a context manager that closes it.

    Attributes:
        name: The graph's name.
        inputs: What `run` is fed.
        outputs: What `run` gives when it names no fetches.
        kept: Every name that may be fetched.
        batch: Which inputs and outputs hold independent items along axis 0, or None.
        batch_reason: Why nothing may be batched, naming the node; None when something may.
        metadata: Free text of the model file.
        precision: What its products compute in: "fp32", "bf16" or "int8".
        choice: How precision "auto" came to it; None where it was asked for by name.
    """

    def __init__(
        self, artifact: Artifact, plan: Plan, device: str, registry: Registry = REGISTRY
    ) -> None:
        graph = artifact.graph
        self._registry = registry
        values = {v.name: v for v in graph.outputs}
        self.name = graph.name
        self.device = device
        self.precision = "fp32"
        self.choice: PrecisionChoice | None = None
        self.inputs = tuple(tensor_spec(v) for v in graph.inputs)
        self.outputs = tuple(tensor_spec(values[name]) for name in artifact.outputs)
        self.kept = graph.output_names
        self.batch: BatchAxes | None = artifact.batch.axes
        self.batch_reason = artifact.batch.reason
        self.metadata = dict(graph.metadata)
        self.parameters = artifact.parameters
        self._graph: Graph | None = graph
        self._plan: Plan | None = plan
        self._memory = MemoryReport(**plan.memory())
        self._check = FeedChecker(graph.inputs)
        self._leading = artifact.leading
        self._default = artifact.outputs
        self._kept = frozenset(self.kept)
        # Values that are not computed would be handed out as they are: the caller gets a copy.
        self._shared = self._kept - graph.producers.keys()
        self._running = 0
        self._lock = Lock()
        self._changed = Condition(self._lock)

    def run(
        self,
        feeds: Mapping[str, Array],
        fetches: Sequence[str] | None = None,
        *,
        control: RunControl | None = None,
    ) -> dict[str, Array]:
        """Compute outputs from inputs.

        Args:
            feeds: An array for every input; types and shapes must fit exactly. A sequence is a list
                of arrays, an optional None or a value, a map a dict. One row beside many is as
                good as many where the model's file names their numbers apart and broadcasts them.
            fetches: Names from `kept`; by default `outputs`.
            control: Lets another thread cancel this run.

        Raises:
            InvalidInput: Feeds or fetches do not fit; says what was expected and what came.
            RunFailed: An operator could not compute these values.
            ResourceLimit: The run needs more than `Limits` allow.
            ModelClosed: The model was closed before.
        """
        aligned = None if self._leading is None else self._leading.align(feeds)
        if aligned is not None:
            feeds = aligned.feeds
        self._check(feeds)
        names = self._default if fetches is None else self._fetches(fetches)
        with self._lock:
            plan = self._plan
            if plan is None:
                raise ModelClosed(f"model {self.name!r} is closed")
            self._running += 1
        try:
            results = plan.run(feeds, names, control)
        finally:
            with self._lock:
                self._running -= 1
                if self._plan is None and not self._running:
                    self._changed.notify_all()
        if self._shared:
            for name in self._shared.intersection(results):
                results[name] = copy_value(results[name])
        return results if aligned is None else aligned.cut(results)

    def bind(
        self,
        sizes: Mapping[str, int],
        *,
        rows: str | None = None,
        state: Mapping[str, str] | None = None,
    ) -> Slots:
        """Return static memory for the default outputs and every input, to be run in place.

        Args:
            sizes: A number for every symbol in the shapes.
            rows: The symbol that counts rows, by default the first of `sizes`: a run may take any
                number of rows up to its size.
            state: Outputs that are the next value of an input, by the input's name, such as a
                cache. Both are one array, which a run changes in place.

        Raises:
            InvalidInput: A size is missing, or rows or states do not fit the model.
            ModelClosed: The model was closed before.
        """
        graph, plan, state = self.graph, self._plan, state or {}
        if plan is None:
            raise ModelClosed(f"model {self.name!r} is closed")
        if not sizes:
            raise InvalidInput(f"expected sizes of the symbols in {list(self.inputs)}")
        kept = {v.name: v for v in graph.outputs}
        named = dict.fromkeys((*self._default, *state.values()))
        unknown = [name for name in named if name not in kept]
        if unknown:
            raise InvalidInput(f"state gives {unknown}, expected names out of {list(kept)}")
        outputs = [kept[name] for name in named]
        counted = next(iter(sizes)) if rows is None else rows
        arrays = static_arrays(graph.inputs, outputs, sizes, counted, state)
        return Slots(plan, arrays, sizes[counted])

    def profile(self, feeds: Mapping[str, Array], *, repeat: int = 5) -> ProfileReport:
        """Run a few times while measuring every node; the report holds the median time of each."""
        recorder = Recorder(self._registry)
        for _ in range(max(1, repeat) + 1):  # the first warms up and is dropped
            recorder.start_run()
            self.run(feeds, control=RunControl(recorder))
        plan = self._plan
        least = plan.least_seconds if isinstance(plan, Measured) else None
        return recorder.report(self.name, self.device, least)

    def memory(self) -> MemoryReport:
        """Return what the model holds in memory now; once it is closed, what it held last.

        Arenas and the cores' own memory are made by runs: before the first one there are none.
        """
        plan = self._plan
        if plan is not None:
            self._memory = MemoryReport(**plan.memory())
        return self._memory

    def close(self) -> None:
        """Refuse new runs, wait for those that are running, and free everything.

        May be called twice.
        """
        with self._changed:
            plan, self._plan = self._plan, None
            self._graph = None
        if isinstance(plan, ClosablePlan):
            plan.close()
        with self._changed:
            self._changed.wait_for(lambda: self._running == 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        inputs = ", ".join(f"{s.name}: {s.dtype}{list(s.shape or ())}" for s in self.inputs)
        return f"<engine.Model {self.name!r} on {self.device}: {inputs} -> {list(self._default)}>"

    @property
    def graph(self) -> Graph:
        """The optimised graph, for inspection."""
        graph = self._graph
        if graph is None:
            raise ModelClosed(f"model {self.name!r} is closed")
        return graph

    def _fetches(self, fetches: Sequence[str]) -> tuple[str, ...]:
        names = tuple(fetches)
        if isinstance(fetches, str) or not self._kept.issuperset(names):
            unknown = fetches if isinstance(fetches, str) else sorted(set(names) - self._kept)
            raise InvalidInput(
                f"fetches {unknown!r}: expected a list of names out of {list(self.kept)}; other "
                "values are kept when named in engine.load(..., outputs=...)"
            )
        return names


def tensor_spec(value: Value) -> TensorSpec:
    """Return what a caller needs to know of a value."""
    kind = value.type
    if not isinstance(kind, TensorType):
        inner = _inner_tensor(kind)
        return replace(tensor_spec(Value(value.name, inner)), kind=str(kind))
    shape = kind.shape
    dims = None if shape is None else tuple(d if isinstance(d, int) else str(d) for d in shape)
    return TensorSpec(value.name, kind.dtype.numpy.name, dims)


def _inner_tensor(kind: ValueType) -> TensorType:
    while not isinstance(kind, TensorType):
        kind = kind.value if isinstance(kind, MapType) else kind.element
    return kind
