"""Many threads, many models, loading beside running, closing, forking, and leaving in the midst."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx import helper as h

import engine

ROOT = Path(__file__).parents[3]
WIDTH = 24


def network(seed: int, layers: int = 3, width: int = WIDTH) -> bytes:
    """A perceptron with a normalization between its layers; `seed` makes the weights."""
    rng = np.random.default_rng(seed)
    nodes, fixed, name = [], {"scale": np.ones(width, np.float32)}, "x"
    for i in range(layers):
        fixed[f"w{i}"] = (rng.standard_normal((width, width)) / width**0.5).astype(np.float32)
        nodes.append(h.make_node("MatMul", [name, f"w{i}"], [f"a{i}"]))
        nodes.append(h.make_node("LayerNormalization", [f"a{i}", "scale"], [f"b{i}"]))
        nodes.append(h.make_node("Tanh", [f"b{i}"], [name := f"c{i}"]))
    graph = h.make_graph(
        nodes,
        "net",
        [h.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [h.make_tensor_value_info(name, TensorProto.FLOAT, ["N", width])],
        [onnx.numpy_helper.from_array(a, n) for n, a in fixed.items()],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def rows(count: int, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(count).standard_normal((count, width)).astype(np.float32)


def answer(model: engine.Model, count: int) -> np.ndarray:
    result: np.ndarray = model.run({"x": rows(count)})[model.kept[0]]
    return result


def test_many_models_run_at_once_while_others_are_loaded() -> None:
    sources = [network(seed) for seed in range(4)]
    with engine.load(sources[0], device="cpu") as warm:
        answer(warm, 1)
    models = [engine.load(source, device="cpu", threads=2) for source in sources]
    want = {(i, n): answer(m, n) for i, m in enumerate(models) for n in (0, 1, 5, 130)}
    done = threading.Event()

    def load_again() -> int:
        count = 0
        while True:  # once in any case: this thread may begin when the others are done
            with engine.load(network(9 + count % 3), device="cpu") as other:
                answer(other, 3)
            count += 1
            if done.is_set():
                return count

    with ThreadPoolExecutor(8) as pool:
        loads = pool.submit(load_again)
        keys = [key for _ in range(30) for key in want]
        got = list(pool.map(lambda key: answer(models[key[0]], key[1]), keys))
        done.set()
        assert loads.result()
    for key, value in zip(keys, got, strict=True):
        assert value.tobytes() == want[key].tobytes(), key
    for model in models:
        model.close()


def test_closing_waits_for_who_runs_and_refuses_who_comes() -> None:
    for attempt in range(10):
        model = engine.load(network(attempt), device="cpu", threads=2)
        want = answer(model, 200).tobytes()
        with ThreadPoolExecutor(4) as pool:
            runs = [pool.submit(run_until_closed, model, want) for _ in range(4)]
            model.close()
            assert all(run.result() for run in runs)


def run_until_closed(model: engine.Model, want: bytes) -> bool:
    """Run again and again; whether every answer was right."""
    try:
        while answer(model, 200).tobytes() == want:
            pass
    except engine.ModelClosed:
        return True
    return False


def run_script(text: str, *arguments: str) -> str:
    """Run a script in a process of its own, which must end well; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, f"status {done.returncode}: {done.stderr[-2000:]}"
    return done.stdout.strip()


FORKING = """
import os, threading
import engine
from tests.engine.cpu.test_concurrency import answer, network
model = engine.load(network(1), device="cpu", threads=2)
want = answer(model, 900).tobytes()
going = True
def keep_running():
    while going:
        answer(model, 900)
threads = [threading.Thread(target=keep_running) for _ in range(2)]
for thread in threads: thread.start()
for _ in range(8):
    child = os.fork()
    if not child:  # workers, locks and runs of the parent do not exist here
        good = all(answer(model, 900).tobytes() == want for _ in range(3))
        with engine.load(network(2), device="cpu") as other:
            answer(other, 5)
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
going = False
for thread in threads: thread.join()
assert answer(model, 900).tobytes() == want
print("good")
"""

LEAVING = """
import sys, threading, time
import engine
from tests.engine.cpu.test_concurrency import network, rows
model = engine.load(network(1, 8, 256), device="cpu", threads=2)
x = rows(5000, 256)
for _ in range(3):
    threading.Thread(target=lambda: [model.run({"x": x}) for _ in range(99)], daemon=True).start()
time.sleep(float(sys.argv[1]))
print("good")
"""

COMPILING = """
import sys, time
import numpy as np
import engine
model = engine.load("tests/networks/fixtures/unet.onnx", device="cpu")
(given,) = model.inputs
for side in (16, 24, 32):  # sizes that came are compiled by a thread of its own
    shape = [{0: 1, 1: given.shape[1]}.get(axis, side) for axis in range(4)]
    model.run({given.name: np.zeros(shape, np.float32)})
time.sleep(float(sys.argv[1]))
print("good")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_the_child_of_a_fork_runs_models_of_its_parent() -> None:
    assert run_script(FORKING) == "good"


def test_a_process_ends_while_native_code_runs() -> None:
    assert run_script(LEAVING, "0.05") == "good"


def test_a_process_ends_while_sizes_are_compiled() -> None:
    assert run_script(COMPILING, "0.02") == "good"
