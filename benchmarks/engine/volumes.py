"""Convolutions of volumes beside ONNX Runtime: `python -m benchmarks.engine.volumes`.

Stages of a residual net over clips of video, two convolutions of 3 x 3 x 3 each, random weights.
"""

from __future__ import annotations

import argparse
import itertools
from statistics import median
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

import engine
from benchmarks.common.machine import machine_facts
from benchmarks.common.results import at_least, markdown_table, targets_table, write_result
from benchmarks.engine.timing import Contender, alternate

STAGES = {  # channels from layer to layer, then planes, rows and columns
    "entry": ((3, 32, 32), (8, 56, 56)),
    "middle": ((32, 64, 64), (8, 28, 28)),
    "late": ((64, 128, 128), (4, 14, 14)),
}


def stage(channels: tuple[int, ...], sizes: tuple[int, ...]) -> bytes:
    """Return a model of convolutions, each with its Relu."""
    random = np.random.default_rng(0)
    nodes, fixed, name = [], [], "x"
    for k, (before, after) in enumerate(itertools.pairwise(channels)):
        weights = random.standard_normal((after, before, 3, 3, 3)) * 0.05
        fixed.append(numpy_helper.from_array(weights.astype(np.float32), f"w{k}"))
        fixed.append(numpy_helper.from_array(np.zeros(after, np.float32), f"b{k}"))
        nodes.append(helper.make_node("Conv", [name, f"w{k}", f"b{k}"], [f"h{k}"], pads=[1] * 6))
        nodes.append(helper.make_node("Relu", [f"h{k}"], [f"r{k}"]))
        name = f"r{k}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", channels[0], *sizes])
    y = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels[-1], *sizes])
    graph = helper.make_graph(nodes, "stage", [x], [y], fixed)
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def measure(name: str, threads: int, rounds: int) -> dict[str, Any]:
    """Time one stage on both sides, in turn."""
    channels, sizes = STAGES[name]
    data = stage(channels, sizes)
    x = np.random.default_rng(1).standard_normal((1, channels[0], *sizes)).astype(np.float32)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    with engine.load(data, device="cpu", threads=threads) as net:
        theirs = session.run(None, {"x": x})[0]
        (ours,) = net.run({"x": x}).values()
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
        contenders = [
            Contender("ours", lambda: net.run({"x": x}), "ours"),
            Contender("ort", lambda: session.run(None, {"x": x}), "ort"),
        ]
        times = alternate(contenders, rounds, 0.06 if threads > 1 else 0.005)
    milliseconds = {label: median(each) * 1e3 for label, each in times.seconds.items()}
    return {
        "stage": name,
        "threads": threads,
        "ours_ms": round(milliseconds["ours"], 3),
        "ort_ms": round(milliseconds["ort"], 3),
        "ratio": round(milliseconds["ort"] / milliseconds["ours"], 3),
        "waited": round(times.waited, 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser("benchmarks.engine.volumes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    rows = []
    for threads in (1, 2):
        for name in STAGES:
            rows.append(measure(name, threads, arguments.rounds))
            print(rows[-1], flush=True)
    least = at_least("ONNX Runtime's time over ours, least row", min(r["ratio"] for r in rows), 1.0)
    table = markdown_table(list(rows[0]), [list(row.values()) for row in rows])
    text = f"# Convolutions of volumes beside ONNX Runtime\n\n{targets_table([least])}\n{table}"
    write_result("volumes", machine_facts("onnxruntime", "numpy"), [least], rows, text)


if __name__ == "__main__":
    main()
