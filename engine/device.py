"""Devices: what one must offer, and finding one by its name. Knows no device and no operator.

A device turns a typed graph into a plan once; the plan runs many times, from many threads. Packages
of devices are imported on first use only, so `import engine` works where their libraries are
missing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from engine.container import ContainerWriter
from engine.errors import DeviceUnavailable
from engine.ir.graph import Array, Graph, Node
from engine.limits import Deadline, Limits

PORTABLE = "portable"  # what computes a node from its portable definition

DEVICES: dict[str, str] = {
    "reference": "engine.reference.device:ReferenceDevice",
    "cpu": "engine.cpu.device:CpuDevice",
    "cuda": "engine.cuda.device:CudaDevice",
}


class OperatorTable(Protocol):
    """Where a device finds operators. `engine.ops.registry.Registry` is the one there is."""

    def lookup(self, domain: str, op: str, version: int, *, node: str = "") -> Any:
        """Return the operator, or raise `UnsupportedOp`."""


@dataclass(frozen=True)
class CompileOptions:
    """What a device needs to know beside the graph.

    Attributes:
        limits: Bounds that the plan enforces while it runs.
        operators: The operator table; None is the engine's own.
        precision: "fp32", "bf16", "fp16", "int8" or "auto".
        threads: Cores that one run may use; None leaves it to the device.
        progress: Is told how many pieces of code are compiled, and how many there are in all.
        deadline: When loading must be over; None is `limits.load_s` from when compiling begins.
    """

    limits: Limits = field(default_factory=Limits)
    operators: OperatorTable | None = None
    precision: str = "fp32"
    threads: int | None = None
    progress: Callable[[int, int], None] | None = None
    deadline: Deadline | None = None


class Observer(Protocol):
    """Is told after every node of a run what it did. Runs are slower while one listens."""

    def __call__(
        self,
        node: Node,
        seconds: float,
        inputs: Sequence[Array | None],
        outputs: Sequence[Array],
        kernel: str = PORTABLE,
    ) -> None:
        """Take notice of one executed node.

        `kernel` is what computed it. Of native code, inputs and outputs have the types and shapes
        of the values, but not their contents.
        """


class RunControl:
    """The caller's hand on one run: stop it, or watch it.

    Make one per run; any thread may call `cancel`.
    """

    __slots__ = ("_listeners", "cancelled", "observer")

    def __init__(self, observer: Observer | None = None) -> None:
        """Watch the run with `observer`, if given."""
        self._listeners: list[Callable[[], None]] = []
        self.cancelled = False
        self.observer = observer

    def cancel(self) -> None:
        """Make the run raise `RunCancelled` before its next node; native code stops amid a node."""
        self.cancelled = True
        for tell in tuple(self._listeners):
            tell()

    def when_cancelled(self, tell: Callable[[], None]) -> None:
        """Call `tell` when the run is cancelled: at once if it is already."""
        self._listeners.append(tell)
        if self.cancelled:
            tell()


@runtime_checkable
class Plan(Protocol):
    """A graph made ready for one device. Thread-safe: runs may overlap."""

    def run(
        self,
        feeds: Mapping[str, Array],
        fetches: Sequence[str],
        control: RunControl | None = None,
    ) -> dict[str, Array]:
        """Compute `fetches` (any names of graph outputs) from a value for every graph input.

        Feeds were checked by the caller. Raises `RunFailed`, `ResourceLimit` or `RunCancelled`.
        """

    def memory(self) -> Mapping[str, int]:
        """Return `weights_bytes`, `arena_bytes`, `code_bytes` and, if any, `scratch_bytes`."""


@dataclass(frozen=True)
class StaticArrays:
    """The memory that a model's static slots are.

    Attributes:
        inputs: An array per input.
        outputs: An array per output; that of a state is the same object as its input's.
        by_row: Names whose first axis counts rows: a run looks at the first ones only.
        state: The output that is the next value of an input, by the input's name.
    """

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    by_row: frozenset[str]
    state: Mapping[str, str]

    def of(self, name: str, array: Array, rows: int) -> Array:
        """Return the part of an array that a run over so many rows sees."""
        return array[:rows] if name in self.by_row else array


@dataclass(frozen=True)
class TailStep:
    """A kernel to run after a graph's own, over the same rows.

    Attributes:
        kernel: What the device takes for one, or the name under which it knows one; its only
            run-time number is that of the rows, which are its tasks.
        arrays: Its operands, which stay where they are.
    """

    kernel: object
    arrays: Sequence[Array]


class StaticRun(Protocol):
    """Runs of one plan over static arrays. Not thread-safe."""

    def run(self, rows: int) -> None:
        """Compute the outputs of the first rows, in place. Raises `RunFailed`."""

    def append_tail(self, steps: Sequence[TailStep]) -> bool:
        """Run kernels after every run from now on; return whether the device can."""

    def memory_bytes(self) -> int:
        """Return the bytes that runs hold beside the arrays."""


@runtime_checkable
class BindablePlan(Protocol):
    """A plan that can compute in static arrays without copying."""

    def bind_static(self, arrays: StaticArrays) -> StaticRun | None:
        """Return runs over these arrays, or None where the plan cannot do better than `run`."""


@runtime_checkable
class Measured(Protocol):
    """A plan whose device knows the peak of its machine."""

    def least_seconds(self, flops: float, size_bytes: float) -> float:
        """Return what this much arithmetic and memory traffic takes at the measured peak."""


@runtime_checkable
class ClosablePlan(Protocol):
    """A plan with work of its own beside its runs."""

    def close(self) -> None:
        """Give that work up, soon; runs that have begun go on."""


class Device(Protocol):
    """One kind of machine that runs graphs."""

    name: str

    def compile(self, graph: Graph, options: CompileOptions) -> Plan:
        """Make a verified graph ready to run.

        May take long; raises `UnsupportedOp` for what it cannot do.
        """


@runtime_checkable
class StoringDevice(Protocol):
    """A device that can keep what it compiles in a file, and packs weights into a form of its own:
    its plans need no fixed values of the graph.
    """

    name: str

    def compile(self, graph: Graph, options: CompileOptions) -> Plan:
        """Make a verified graph ready to run."""

    def fingerprint(self, options: CompileOptions) -> str:
        """Return a text that differs wherever the same graph would compile to something else."""

    def write(self, graph: Graph, options: CompileOptions, into: ContainerWriter) -> Any:
        """Compile a verified graph into blobs of a file; return what else must be known, as JSON.

        Nothing need be able to run here but the compiler.
        """

    def read(
        self, data: Any, graph: Graph, blobs: Sequence[memoryview], options: CompileOptions
    ) -> Plan:
        """Make ready to run what `write` wrote under the same fingerprint.

        `graph` is the same graph, perhaps without its large fixed values. Raises LookupError,
        TypeError or ValueError where the data makes no sense.
        """


def get_device(name: str) -> Device:
    """Return the device called `name`; `DeviceUnavailable` says what is known or missing."""
    target = DEVICES.get(name)
    if target is None:
        known = ", ".join(sorted(DEVICES))
        raise DeviceUnavailable(f"no device is called {name!r}; known are {known}")
    module_name, _, class_name = target.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise DeviceUnavailable(
            f"device {name!r} needs a package that is missing: {error}"
        ) from error
    make: Callable[[], Device] = getattr(module, class_name)
    return make()
