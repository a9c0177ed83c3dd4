"""How late an event loop gets while pictures of new sizes come.

    python -m benchmarks.engine.open_sizes [--realtime]

A U-Net whose heights and widths are open, loaded as a server loads it. Its plans for sizes are made
while an event loop in the same process wakes up again and again: for kernels that nobody has
compiled before, and for kernels that an earlier process has.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import uvloop
from onnx import TensorProto, helper, numpy_helper

import engine
from benchmarks.common.machine import machine_facts
from benchmarks.common.percentiles import percentile
from benchmarks.common.results import at_most, markdown_table, targets_table, write_result
from benchmarks.engine.priority import TASKS
from engine.cpu.specializing import SpecializingPlan

BASE, DEPTH = 32, 4
IDLE_S = 2.0
TICK_S = 0.001  # between two awakenings
SIZES = tuple((64 + 16 * k, 64 + 16 * (k % 3)) for k in range(8))
LOAD_LIMIT_S = 300.0
P99_LIMIT_MS = 10.0
MAX_LIMIT_MS = 50.0


class _Net:
    """A graph under construction; every layer takes a value's name and returns the next one's."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.fixed: list[Any] = []
        self._random = np.random.default_rng(0)

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; return its output."""
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def weights(self, *shape: int) -> str:
        """Add random weights, scaled by how many are summed."""
        name = f"w{len(self.fixed)}"
        values = self._random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        self.fixed.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def pair(self, x: str, source: int, target: int) -> str:
        """Add two convolutions of 3 x 3."""
        for before in (source, target):
            inputs = [x, self.weights(target, before, 3, 3), self.weights(target)]
            x = self.add("Relu", [self.add("Conv", inputs, pads=[1] * 4)])
        return x


def unet() -> bytes:
    """Return a U-Net of 32 channels at the top and 31 MB of weights, of any height and width."""
    net, kept, x = _Net(), [], "x"
    widths = [3, *(BASE << level for level in range(DEPTH + 1))]
    for level in range(DEPTH + 1):
        if level:
            x = net.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
        x = net.pair(x, widths[level], widths[level + 1])
        kept.append(x)
    for level in reversed(range(DEPTH)):
        width = widths[level + 1]
        up = [x, net.weights(2 * width, width, 2, 2)]
        x = net.add("ConvTranspose", up, kernel_shape=[2, 2], strides=[2, 2])
        x = net.pair(net.add("Concat", [x, kept[level]], axis=1), 2 * width, width)
    net.nodes.append(helper.make_node("Conv", [x, net.weights(1, BASE, 1, 1)], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(net.nodes, "unet", inputs, outputs, net.fixed)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


async def _late(ends: asyncio.Event) -> list[float]:
    """Return by how many seconds each awakening was late."""
    found = []
    while not ends.is_set():
        begin = time.perf_counter()
        await asyncio.sleep(TICK_S)
        found.append(time.perf_counter() - begin - TICK_S)
    return found


def _go_first() -> None:
    """Put this process's threads before all others, the loop's first; its children stay where
    they would be without.
    """
    for task in TASKS.iterdir():
        priority = 2 if int(task.name) == os.getpid() else 1  # the loop is the main thread's
        policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
        with suppress(ProcessLookupError):  # a thread may end meanwhile
            os.sched_setscheduler(int(task.name), policy, os.sched_param(priority))


def _sizes_come(plan: SpecializingPlan, urgent: bool) -> None:
    """Let one size come after the other, each when the plan for the one before is there."""
    for sizes in SIZES:
        plan._plan_for(sizes)  # what a run does first; its general form would take the cores
        if urgent:
            _go_first()
        if not plan.wait(LOAD_LIMIT_S):
            raise RuntimeError(f"expected a plan for {sizes} within {LOAD_LIMIT_S:g} s")
        if plan._plan_for(sizes) is None:
            raise RuntimeError(f"there is no plan for {sizes}")


def resident_mb() -> float:
    """Return how much memory this process takes."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  # not on a disk
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _cpu_beside_the_loop() -> float:
    """Return the seconds that other threads have computed; the loop's own are the probe's."""
    return time.process_time() - time.thread_time()


async def _measure(model: engine.Model, urgent: bool) -> dict[str, Any]:
    """Measure the loop that runs this: before sizes come, and while they do."""
    plan = model._plan
    assert isinstance(plan, SpecializingPlan)
    ends = asyncio.Event()
    probe = asyncio.create_task(_late(ends))
    if urgent:
        _go_first()
    await asyncio.sleep(IDLE_S)
    ends.set()
    quiet = await probe
    ends.clear()
    wall, cpu = time.perf_counter(), _cpu_beside_the_loop()
    probe = asyncio.create_task(_late(ends))
    await asyncio.to_thread(_sizes_come, plan, urgent)
    ends.set()
    late = await probe
    wall, cpu = time.perf_counter() - wall, _cpu_beside_the_loop() - cpu
    return {
        "idle_p99_ms": percentile(quiet, 0.99) * 1e3,
        "idle_max_ms": max(quiet) * 1e3,
        "p99_ms": percentile(late, 0.99) * 1e3,
        "max_ms": max(late) * 1e3,
        "late_ms": sum(each for each in late if each > TICK_S) * 1e3 / len(SIZES),
        "cpu_s": cpu / len(SIZES),
        "wall_s": wall / len(SIZES),
    }


def side(urgent: bool) -> dict[str, Any]:
    """Measure in this process: its figures per size, and its memory in the end."""
    with engine.load(unet(), device="cpu", threads=1, isolate=True) as model:
        figures = uvloop.run(_measure(model, urgent))
        for height, width in SIZES:
            model.run({"x": np.zeros((1, 3, height, width), np.float32)})
        figures["resident_mb"] = resident_mb()
        figures["weights_mb"] = model.memory().weights_bytes / 1e6
    return {name: round(value, 3) for name, value in figures.items()}


def _in_process(folder: str, urgent: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.engine.open_sizes", "--side"]
    command += ["--realtime"] if urgent else []
    environment = {**os.environ, "MILLRACE_CACHE_DIR": folder}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def main() -> int:
    parser = argparse.ArgumentParser("benchmarks.engine.open_sizes", description=__doc__)
    parser.add_argument("--side", action="store_true", help="measure once, in this process")
    parser.add_argument("--dry", action="store_true", help="print only, write nothing")
    parser.add_argument("--realtime", action="store_true", help="go before other processes")
    arguments = parser.parse_args()
    urgent = arguments.realtime
    if arguments.side:
        print(json.dumps(side(urgent)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: _in_process(folder, urgent) for name in ("new", "known")}
    worst = {name: max(row[name] for row in rows.values()) for name in rows["new"]}
    targets = [
        at_most("event loop lag, p99, ms", worst["p99_ms"], P99_LIMIT_MS),
        at_most("event loop lag, largest, ms", worst["max_ms"], MAX_LIMIT_MS),
    ]
    table = markdown_table(
        ["kernels", *rows["new"]], [[name, *row.values()] for name, row in rows.items()]
    )
    text = "# New sizes of pictures beside an event loop\n\n"
    text += f"{len(SIZES)} sizes of a U-Net come one after the other, to a process whose event "
    text += "loop wakes up every millisecond. `late_ms` is the sum of how late it was, `cpu_s` "
    text += "what the process's other threads computed, `wall_s` how long the plan took, all "
    text += "three per size; `resident_mb` is the process's memory with all plans.\n\n"
    text += f"{targets_table(targets)}\n{table}"
    print(text)
    if not arguments.dry:
        write_result("open-sizes", machine_facts("uvloop"), targets, rows, text)
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
