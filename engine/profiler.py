"""What every node of a run cost: time, arithmetic, bytes, and its share of the whole."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from engine.device import PORTABLE, Observer
from engine.dtypes import DType
from engine.ir.graph import Array, Node
from engine.ir.types import TensorType
from engine.ir.values import value_bytes
from engine.ops.contexts import InferContext
from engine.ops.registry import REGISTRY, Registry

# Flops and bytes to the seconds that they take at the peak of the machine.
LeastSeconds = Callable[[float, float], float]


@dataclass(frozen=True)
class NodeProfile:
    """One node's cost.

    Attributes:
        name: The node's name, or its first output.
        op: Its operator.
        kernel: What computed it; "portable" is the operator's portable definition.
        seconds: Median time over the runs; without its bodies, whose nodes stand for themselves.
        flops: Arithmetic operations of one run, None where the operator does not say.
        bytes: Bytes of its inputs and outputs.
        share: Part of the time of all nodes, 0 to 1.
        times: How often a run computes it: once, or once in every pass of a loop.
        least_seconds: What its arithmetic and its bytes take at the machine's measured peak; None
            where the device has not measured it.
    """

    name: str
    op: str
    kernel: str
    seconds: float
    flops: int | None
    bytes: int
    share: float
    times: int = 1
    least_seconds: float | None = None

    @property
    def peak_share(self) -> float | None:
        """The time that the machine's peak would need, as a part of the time taken.

        More than 1 is possible: what lies in cache need not come from memory.
        """
        if self.least_seconds is None or not self.seconds:
            return None
        return self.least_seconds / self.seconds

    @property
    def gflops_per_s(self) -> float | None:
        """Arithmetic rate in 1e9 operations a second."""
        return None if not self.flops or not self.seconds else self.flops / self.seconds / 1e9


def _times(node: NodeProfile) -> str:
    return f" ({node.times} times)" if node.times > 1 else ""


@dataclass(frozen=True)
class ProfileReport:
    """A run taken apart. `print(report)` gives a table, most expensive node first."""

    model: str
    device: str
    nodes: tuple[NodeProfile, ...]

    @property
    def seconds(self) -> float:
        """Time of all nodes."""
        return sum(node.seconds for node in self.nodes)

    def by_op(self) -> list[tuple[str, int, float, float]]:
        """Return (operator, nodes, seconds, share), most expensive first."""
        sums: dict[str, tuple[int, float]] = {}
        for node in self.nodes:
            count, seconds = sums.get(node.op, (0, 0.0))
            sums[node.op] = count + 1, seconds + node.seconds
        total = self.seconds or 1.0
        rows = [(op, count, seconds, seconds / total) for op, (count, seconds) in sums.items()]
        return sorted(rows, key=lambda row: -row[2])

    def __str__(self) -> str:
        lines = [
            f"{self.model} on {self.device}: {self.seconds * 1e3:.3f} ms in {len(self.nodes)} nodes"
        ]
        lines.append(
            f"{'share':>6} {'ms':>9} {'MFLOP':>9} {'MB':>8} {'peak':>6}"
            f"  {'op':<20} {'kernel':<20} node"
        )
        for node in sorted(self.nodes, key=lambda n: -n.seconds):
            flops = "" if node.flops is None else f"{node.flops / 1e6:.2f}"
            peak = "" if node.peak_share is None else f"{node.peak_share:.0%}"
            lines.append(
                f"{node.share:6.1%} {node.seconds * 1e3:9.3f} {flops:>9} {node.bytes / 1e6:8.2f} "
                f"{peak:>6}"
                f"  {node.op:<20} {node.kernel:<20} {node.name}{_times(node)}"
            )
        return "\n".join(lines)


@dataclass(slots=True)
class _Row:
    """What one node did in one run, all passes of a loop together."""

    node: Node
    seconds: float = 0.0
    flops: int | None = None
    bytes: int = 0
    times: int = 0
    kernel: str = PORTABLE


class _Run:
    """One run: a row per node, and who ran inside of whom."""

    def __init__(self) -> None:
        self.rows: dict[int, _Row] = {}  # by the node's identity: the plan keeps it alive
        self._ended: list[tuple[float, float]] = []  # moment and time of nodes no one else claimed

    def add(self, node: Node, seconds: float, size: int, kernel: str) -> _Row:
        """Take in a node that ended right now.

        Nodes of native code are all told of when their region ends, and have nothing inside.
        """
        now = time.perf_counter()
        row = self.rows.get(id(node))
        if row is None:
            row = self.rows[id(node)] = _Row(node)
        inside = self._inside(now - seconds) if kernel == PORTABLE else 0.0
        row.seconds += max(0.0, seconds - inside)
        row.kernel = kernel
        row.bytes += size
        row.times += 1
        self._ended.append((now, seconds))
        return row

    def _inside(self, began: float) -> float:
        """Return the time of nodes that ran since then: those of the node's own bodies."""
        total = 0.0
        while self._ended and self._ended[-1][0] > began:
            total += self._ended.pop()[1]
        return total


class Recorder(Observer):
    """Watches runs of one model and sums up what it saw; the first run is for warming up."""

    def __init__(self, registry: Registry = REGISTRY) -> None:
        self._registry = registry
        self._runs: list[_Run] = []

    def start_run(self) -> None:
        """Begin another run."""
        self._runs.append(_Run())

    def __call__(
        self,
        node: Node,
        seconds: float,
        inputs: Sequence[Array | None],
        outputs: Sequence[Array],
        kernel: str = PORTABLE,
    ) -> None:
        """Take notice of one executed node."""
        size = sum(map(value_bytes, (*inputs, *outputs)))
        row = self._runs[-1].add(node, seconds, size, kernel)
        if len(self._runs) == 1:  # the same for every run
            flops = count_flops(node, inputs[: len(node.inputs)], self._registry)
            row.flops = flops if row.flops is None or flops is None else row.flops + flops

    def report(self, model: str, device: str, least: LeastSeconds | None = None) -> ProfileReport:
        """Return the report of all runs but the first.

        `least` tells what flops and bytes take at the machine's peak.
        """
        measured = self._runs[1:] or self._runs
        first = self._runs[0].rows
        # A loop may have more passes in one run than in another, even none.
        found = {key: row for run in measured for key, row in run.rows.items()}
        seconds = {key: median(_seconds(run, key) for run in measured) for key in found}
        total = sum(seconds.values()) or 1.0
        nodes = tuple(
            NodeProfile(
                name=row.node.label,
                op=row.node.op,
                kernel=row.kernel,
                seconds=seconds[key],
                flops=first[key].flops if key in first else None,
                bytes=row.bytes,
                share=seconds[key] / total,
                times=row.times,
                least_seconds=_least_seconds(row, first.get(key), least),
            )
            for key, row in found.items()
        )
        return ProfileReport(model, device, nodes)


def _least_seconds(row: _Row, first: _Row | None, least: LeastSeconds | None) -> float | None:
    flops = None if first is None else first.flops
    if least is None or row.kernel == PORTABLE or not flops:
        return None
    return least(flops, row.bytes)


def _seconds(run: _Run, key: int) -> float:
    row = run.rows.get(key)
    return 0.0 if row is None else row.seconds


def count_flops(node: Node, inputs: Sequence[Array | None], registry: Registry) -> int | None:
    """Return the arithmetic operations of a node on these inputs, or None where the operator does
    not say.
    """
    operator = registry.find(node)
    ctx = InferContext(
        node=node,
        types=[_type(value) for value in inputs],
        attributes=operator.complete(node),
        constants=list(inputs),
        symbolic=[None] * len(inputs),
        version=node.version,
    )
    flops = operator.count_flops(ctx)
    return flops if isinstance(flops, int) else None


def _type(value: Array | None) -> TensorType | None:
    """Return a tensor's type; lists and what else is no tensor have no arithmetic of their own."""
    if value is None or not hasattr(value, "dtype"):
        return None
    return TensorType(DType.from_numpy(value.dtype), tuple(value.shape))
