"""Times O0 against O2 on the reference device: `python -m benchmarks.passes [rounds]`.

The networks are those of the tests, in the sizes of real ones, exactly as exporters write them.
Runs of both levels alternate, so that what else the machine does meets both.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping

import numpy as np

from benchmarks.common.machine import machine_facts
from benchmarks.common.results import Target, at_least, markdown_table, write_result
from engine.compiler import CompileRequest, compile_model
from engine.interpreter import GraphPlan
from tests.engine.onnx_models import mlp
from tests.engine.passes import exported

Feeds = Mapping[str, np.ndarray]
SLOWER = 0.97  # a fused node must not be slower than its parts, but for what a clock tells apart


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _tokens(length: int) -> Feeds:
    return {"x": _normal(1, length, 768), "mask": np.ones((1, length), np.int64)}


NETWORKS: dict[str, tuple[Callable[[], bytes], Feeds]] = {
    "BERT layer, torchscript, 128 tokens": (
        lambda: exported.bert_torchscript(14, size=768, heads=12),
        _tokens(128),
    ),
    "BERT layer, torchscript, 16 tokens": (
        lambda: exported.bert_torchscript(14, size=768, heads=12, tanh=True),
        _tokens(16),
    ),
    "BERT layer, dynamo, 128 tokens": (
        lambda: exported.bert_dynamo(size=768, heads=12),
        _tokens(128),
    ),
    "Llama feed-forward, 64 tokens": (
        lambda: exported.llama(size=512, hidden=1376),
        {"x": _normal(1, 64, 512)},
    ),
    "residual block, 64 channels, 56 x 56": (
        lambda: exported.residual_block(channels=64),
        {"x": _normal(1, 3, 56, 56)},
    ),
    "MLP 784-512-10, one row": (
        lambda: mlp(features=784, hidden=512, classes=10),
        {"x": _normal(1, 784)},
    ),
}


def measure(data: bytes, feeds: Feeds, rounds: int) -> tuple[list[int], list[float]]:
    """Return nodes and milliseconds of a run, at O0 and O2: medians of alternating runs."""
    graphs = [compile_model(data, CompileRequest(level=level)).graph for level in (0, 2)]
    plans = [GraphPlan(graph) for graph in graphs]
    times: list[list[float]] = [[], []]
    for number in range(rounds + 2):
        for plan, seen in zip(plans, times, strict=True):
            start = time.process_time()
            plan.run(feeds)
            if number >= 2:  # the first runs compile expressions and fill caches
                seen.append((time.process_time() - start) * 1e3)
    return [len(g.nodes) for g in graphs], [statistics.median(t) for t in times]


def main(rounds: int) -> None:
    rows, targets, details = [], list[Target](), []
    for name, (build, feeds) in NETWORKS.items():
        nodes, times = measure(build(), feeds, rounds)
        ratio = times[0] / times[1]
        rows.append([name, *nodes, *(f"{t:.3f}" for t in times), f"{ratio:.2f}"])
        targets.append(at_least(f"{name}: time at O0 over O2", ratio, SLOWER))
        details.append({"network": name, "nodes": nodes, "ms": times})
        print(rows[-1], flush=True)
    header = ["network", "nodes O0", "nodes O2", "ms O0", "ms O2", "O0 / O2"]
    text = "# O0 and O2 on the reference device\n\nfp32, one thread, processor time, medians of "
    text += f"{rounds} alternating runs.\n\n" + markdown_table(header, rows)
    write_result("passes", machine_facts(), targets, details, text)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 25)
