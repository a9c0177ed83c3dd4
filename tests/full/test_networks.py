"""Exports the networks anew with the installed exporters, and holds the engine to them likewise.

Needs a Python with the extra `networks`, named by MILLRACE_TORCH_PYTHON; left to `make test-full`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.networks.checking import check_network
from tests.networks.table import NETWORKS

ROOT = Path(__file__).resolve().parents[2]
TORCH_PYTHON = os.environ.get("MILLRACE_TORCH_PYTHON")
EXPORTERS = ("torch", "transformers", "skl2onnx", "lightgbm", "onnxmltools")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not TORCH_PYTHON, reason="MILLRACE_TORCH_PYTHON names no Python with torch"),
]


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All networks, written by the committed script."""
    program = f"import {', '.join(EXPORTERS)}"
    found = subprocess.run([str(TORCH_PYTHON), "-c", program], capture_output=True, check=False)
    if found.returncode:
        pytest.skip("the extra `networks` is not installed beside torch")
    folder = tmp_path_factory.mktemp("networks")
    command = [str(TORCH_PYTHON), "-m", "tests.networks.export", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, timeout=6000)
    return folder


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_fresh_export_answers_as_onnx_runtime_does(exports: Path, name: str, level: int) -> None:
    check_network(exports / f"{name}.onnx", NETWORKS[name], level)
