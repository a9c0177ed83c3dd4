"""What every node of a run cost: time, arithmetic, bytes, and its share of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from engine.device import Observer
from engine.dtypes import DType
from engine.errors import EngineError
from engine.ir.graph import Array, Node
from engine.ir.types import TensorType
from engine.ir.values import value_bytes
from engine.ops.contexts import InferContext
from engine.ops.registry import REGISTRY, Registry


@dataclass(frozen=True)
class NodeProfile:
    """One node's cost.

    Attributes:
        name: The node's name, or its first output.
        op: Its operator.
        kernel: What computed it; "portable" is the operator's portable definition.
        seconds: Median time over the runs.
        flops: Arithmetic operations of one run, None where the operator does not say.
        bytes: Bytes of its inputs and outputs.
        share: Part of the time of all nodes, 0 to 1.
    """

    name: str
    op: str
    kernel: str
    seconds: float
    flops: int | None
    bytes: int
    share: float

    @property
    def gflops_per_s(self) -> float | None:
        """Arithmetic rate in 1e9 operations a second."""
        return None if not self.flops or not self.seconds else self.flops / self.seconds / 1e9


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
            f"{'share':>6} {'ms':>9} {'MFLOP':>9} {'MB':>8}  {'op':<20} {'kernel':<10} node"
        )
        for node in sorted(self.nodes, key=lambda n: -n.seconds):
            flops = "" if node.flops is None else f"{node.flops / 1e6:.2f}"
            lines.append(
                f"{node.share:6.1%} {node.seconds * 1e3:9.3f} {flops:>9} {node.bytes / 1e6:8.2f}"
                f"  {node.op:<20} {node.kernel:<10} {node.name}"
            )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class _Sample:
    node: Node
    seconds: float
    flops: int | None
    bytes: int


class Recorder(Observer):
    """Watches runs of one model and sums up what it saw; the first run is for warming up."""

    def __init__(self, registry: Registry = REGISTRY) -> None:
        self._registry = registry
        self._runs: list[list[_Sample]] = []

    def start_run(self) -> None:
        """Begin another run."""
        self._runs.append([])

    def __call__(
        self, node: Node, seconds: float, inputs: Sequence[Array | None], outputs: Sequence[Array]
    ) -> None:
        """Take notice of one executed node."""
        size = sum(map(value_bytes, (*inputs, *outputs)))
        self._runs[-1].append(_Sample(node, seconds, self._flops(node, inputs), size))

    def report(self, model: str, device: str) -> ProfileReport:
        """Return the report of all runs but the first."""
        measured = self._runs[1:] or self._runs
        # Bodies may run a different number of times: nodes are matched by place in the shortest
        # run.
        rows = list(zip(*measured, strict=False))
        seconds = [median(sample.seconds for sample in row) for row in rows]
        total = sum(seconds) or 1.0
        nodes = tuple(
            NodeProfile(
                name=row[0].node.label,
                op=row[0].node.op,
                kernel="portable",
                seconds=time,
                flops=row[0].flops,
                bytes=row[0].bytes,
                share=time / total,
            )
            for row, time in zip(rows, seconds, strict=True)
        )
        return ProfileReport(model, device, nodes)

    def _flops(self, node: Node, inputs: Sequence[Array | None]) -> int | None:
        if len(self._runs) > 1:  # the same for every run
            return self._runs[0][len(self._runs[-1])].flops if self._fits() else None
        return count_flops(node, inputs, self._registry)

    def _fits(self) -> bool:
        return len(self._runs[-1]) < len(self._runs[0])


def count_flops(node: Node, inputs: Sequence[Array | None], registry: Registry) -> int | None:
    """Return the arithmetic operations of a node on these inputs, or None where the operator does
    not say.
    """
    operator = registry.find(node)
    if operator.flops is None:
        return None
    types = [
        None if a is None else TensorType(DType.from_numpy(a.dtype), tuple(a.shape)) for a in inputs
    ]
    ctx = InferContext(
        node=node,
        types=types,
        attributes=operator.complete(node),
        constants=list(inputs),
        symbolic=[None] * len(inputs),
        version=node.version,
    )
    try:
        flops = operator.flops(ctx)
    except (EngineError, ArithmeticError, LookupError, TypeError, ValueError):
        return None
    return flops if isinstance(flops, int) else None
