"""A process that is killed at any moment loses nothing acknowledged and leaves nothing half."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]


def kill(folder: Path, kills: int, seed: int) -> dict[str, int]:
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.server.index.embedded.crashes",
            folder / "collections",
            str(kills),
            str(seed),
        ],
        cwd=ROOT,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    caught: dict[str, int] = json.loads(run.stdout)
    assert sum(caught.values()) == kills
    return caught


@pytest.mark.timeout(900)  # of a machine that is busy with other things
def test_twenty_kills_lose_nothing(tmp_path: Path) -> None:
    kill(tmp_path, 20, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_hundred_kills_lose_nothing(tmp_path: Path) -> None:
    caught = kill(tmp_path, 200, seed=2)
    # Most of them hit a change in the middle, and all kinds of changes are among them.
    assert sum(count for what, count in caught.items() if what != "between") > 100
    assert {what.partition(":")[0] for what in caught} >= {"put", "delete", "fill", "restore"}
