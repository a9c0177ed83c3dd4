"""Runs one model at several levels and compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from engine.compiler import CompileRequest, compile_model
from engine.evaluation import evaluate_graph
from engine.interpreter import GraphPlan
from engine.ir.graph import Graph
from engine.ir.verify import verify_graph
from engine.limits import Deadline, Limits
from engine.lowering.batch_axes import BatchVerdict
from engine.ops.registry import REGISTRY
from tests.engine.onnx_models import ort_run

Arrays = Mapping[str, np.ndarray]
# Of the largest magnitude: what rounding once per chain or once per node may differ by.
TOLERANCE = {"float64": 1e-12, "float32": 2e-6, "float16": 6e-3}


def compiled(data: bytes, level: int, outputs: Sequence[str] | None = None) -> Graph:
    """The graph at a level, every pass held to the operators' own types."""
    return verdict_and_graph(data, level, outputs)[1]


def verdict_and_graph(
    data: bytes, level: int, outputs: Sequence[str] | None = None
) -> tuple[BatchVerdict, Graph]:
    """What may be batched, and the graph."""

    def watch(number: int, name: str, graph: Graph) -> None:
        verify_graph(graph, reinfer=lambda g: types_of(g))

    artifact = compile_model(data, CompileRequest(outputs=outputs, level=level), watch=watch)
    return artifact.batch, artifact.graph


def types_of(graph: Graph) -> Mapping[str, object]:
    """Type a graph anew."""
    limits = Limits()
    return evaluate_graph(
        graph, REGISTRY, limits=limits, deadline=Deadline(limits.load_s)
    ).graph.types


def ops(graph: Graph) -> list[str]:
    """Operators in order, those of the engine's own domain with a star."""
    return [n.op + ("*" if n.domain == "millrace" else "") for n in graph.nodes]


def run(graph: Graph, feeds: Arrays) -> dict[str, np.ndarray]:
    """Run on numpy."""
    return GraphPlan(graph).run(feeds)


def assert_close(got: Arrays, want: Arrays, factor: float = 1.0) -> None:
    """Equal but for rounding; NaN and infinities in the same places."""
    assert got.keys() == want.keys()
    for name, right in want.items():
        left = got[name]
        assert left.dtype == right.dtype and left.shape == right.shape, name
        if right.dtype.kind != "f":
            np.testing.assert_array_equal(left, right, err_msg=name)
            continue
        finite = np.abs(right[np.isfinite(right)].astype(np.float64)).max(initial=1.0)
        bound = TOLERANCE[right.dtype.name] * factor
        np.testing.assert_allclose(left, right, rtol=bound, atol=bound * finite, err_msg=name)


def check_levels(data: bytes, feeds: Arrays, factor: float = 1.0, ort: bool = True) -> Graph:
    """O2 equals O0 and, where it has kernels, ONNX Runtime; what may be batched stays so."""
    before, plain = verdict_and_graph(data, 0)
    after, fused = verdict_and_graph(data, 2)
    want = run(plain, feeds)
    assert_close(run(fused, feeds), want, factor)
    if ort:
        assert_close(run(fused, feeds), ort_run(data, feeds), 2 * factor)
    if before.axes is not None:
        assert after.axes == before.axes, after.reason
    return fused
