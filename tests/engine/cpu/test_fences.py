"""No kernel leaves its operands or counts on what memory held before: whole networks, fenced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# One of each family: convolutions and joined channels, depthwise, attention, recurrent, bytes, open
# sizes, bodies.
SAMPLE = ("densenet", "mobilenet_v2", "bert", "lstm", "resnet_qdq", "segformer", "until_loop")


def run_fenced(arguments: Sequence[str], limit_s: float) -> None:
    """Run `fences` in a process of its own, which a fault ends."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine.cpu.fences", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1:]
    assert last == ["done"], f"in {last}, status {done.returncode}:\n{done.stderr[-3000:]}"


def test_a_fence_ends_the_process() -> None:
    """What the other tests rely on: one byte too far is fatal, the last one is not."""
    script = """
import ctypes, sys
from tests.engine.cpu.fences import fenced_array
array = fenced_array([5], "float32", at_end=sys.argv[1] == "end")
for place in map(int, sys.argv[2:]):
    ctypes.memset(array.ctypes.data + place, 0, 1)
"""
    for arguments, fatal in (
        (["end", "0", "19"], False),
        (["end", "20"], True),
        (["begin", "0", "19"], False),
        (["begin", "-1"], True),
    ):
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300, check=False)
        assert (done.returncode < 0) is fatal, (arguments, done.stderr)


def test_what_a_model_gives_ends_at_a_fence() -> None:
    """Patches find what they replace: an output of 5 floats would begin its page otherwise."""
    script = """
import numpy as np, engine
from tests.engine.cpu.fences import PAGE, fenced
from tests.engine.onnx_models import model, node
data = model([node("Relu", ["x"], ["y"])], [("x", [5])], [("y", [5])])
with fenced(), engine.load(data) as loaded:
    y = loaded.run({"x": np.ones(5, np.float32)})["y"]
    print(y.tolist(), (y.ctypes.data + y.nbytes) % PAGE)
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout == "[1.0, 1.0, 1.0, 1.0, 1.0] 0\n", done.stderr


def test_networks() -> None:
    run_fenced(SAMPLE, 590)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_networks() -> None:
    run_fenced([], 1790)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_generated_graphs() -> None:
    run_fenced(["--generated", "60"], 1790)
