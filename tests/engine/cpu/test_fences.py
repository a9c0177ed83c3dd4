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
