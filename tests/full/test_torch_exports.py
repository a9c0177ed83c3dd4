"""Classifiers exported by torch, both exporters, free batch and single row: answers, batching,
isolation.

Needs a Python with torch (the `train` extra), named by MILLRACE_TORCH_PYTHON; left to `make
test-full`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import engine
from tests.engine.onnx_models import ort_run

TORCH_PYTHON = os.environ.get("MILLRACE_TORCH_PYTHON")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not TORCH_PYTHON, reason="MILLRACE_TORCH_PYTHON names no Python with torch"),
]
NETS = ("resnet18", "mobilenet_v2", "efficientnet", "vit", "vit_torch", "convnext", "shufflenet")
FORMS = ("dynamo-free", "dynamo-one", "script-free", "script-one")
NOT_EXPORTED = {
    # torch's older exporter cannot express adaptive pooling of a free size
    ("shufflenet", "script-free"),
    ("shufflenet", "script-one"),
}
CASES = [(n, f) for n in NETS for f in FORMS if (n, f) not in NOT_EXPORTED]


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torch")
    program = Path(__file__).with_name("torch_nets.py")
    subprocess.run([str(TORCH_PYTHON), str(program), str(folder)], check=True, timeout=1500)
    return folder


@pytest.mark.parametrize(("net", "form"), CASES)
def test_an_export_runs_and_batches(exports: Path, net: str, form: str) -> None:
    source = exports / f"{net}-{form}.onnx"
    with np.load(source.with_suffix(".npz")) as file:
        x, want = file["x"], file["y"]
    with engine.load(source, isolate=True) as model:
        assert model.batch == engine.BatchAxes(frozenset({"x"}), frozenset({"y"})), (
            model.batch_reason
        )
        got = model.run({"x": x})["y"]
        alone = np.concatenate([model.run({"x": x[i : i + 1]})["y"] for i in range(len(x))])
        assert not {"BatchNormalization", "Identity", "Dropout"} & {n.op for n in model.graph.nodes}
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(got, alone, rtol=1e-4, atol=1e-6)
    theirs = ort_run(str(source), {"x": x if form.endswith("free") else x[:1]})  # type: ignore[arg-type]
    np.testing.assert_allclose(got[: len(theirs["y"])], theirs["y"], rtol=1e-3, atol=1e-5)
