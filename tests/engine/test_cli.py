"""The command line, called in this process."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from engine.cli import main
from engine.isolate import PACKAGE_ROOT
from tests.engine.onnx_models import convnet, load, mlp, model, node, normal


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "m.onnx").write_bytes(convnet())
    return str(tmp_path / "m.onnx")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def test_inspect_tells_shapes_weights_arithmetic_and_batching(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", path, "--nodes"]) == 0
    text = said(capsys)
    assert "input x float32 N x 3 x 8 x 8" in text and "output y float32 N x 5" in text
    assert "221 parameters" in text and "Conv" in text and "BatchNormalization" not in text
    assert "batch: inputs ['x'], outputs ['y']" in text
    assert main(["inspect", path, "--nodes", "--level", "0"]) == 0
    assert "BatchNormalization" in said(capsys)


def test_inspect_tells_what_prevents_batching(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    softmax = model([node("Softmax", ["x"], ["y"], axis=0)], [("x", ["N", 4])], [("y", None)])
    (tmp_path / "m.onnx").write_bytes(softmax)
    assert main(["inspect", str(tmp_path / "m.onnx")]) == 0
    assert "batch: none, node 'n_y' (Softmax)" in said(capsys)


def test_compile_writes_an_artifact_and_the_graph_after_each_pass(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact, dump = str(tmp_path / "a"), tmp_path / "dump"
    assert main(["compile", path, "-o", artifact, "--dump", str(dump)]) == 0
    names = sorted(p.name for p in dump.iterdir())
    assert names[0] == "00-import.txt" and any("conv_bn_fusion" in n for n in names)
    assert "BatchNormalization" in (dump / names[0]).read_text()
    assert "BatchNormalization" not in (dump / names[-1]).read_text()
    assert main(["compile", path, "-o", artifact]) == 0  # writes over it
    capsys.readouterr()
    assert main(["run", artifact, "--dim", "N=3"]) == 0
    assert "[3, 5]" in said(capsys)


def test_run_takes_and_saves_arrays(path: str, tmp_path: Path) -> None:
    x = normal(2, 3, 8, 8)
    np.savez(tmp_path / "in.npz", x=x)
    save = tmp_path / "out.npz"
    arguments = ["run", path, "--inputs", str(tmp_path / "in.npz"), "--save", str(save)]
    assert main([*arguments, "--keep", "y", "--keep", "f"]) == 0
    with load(convnet()) as net, np.load(save) as file:
        assert set(file) == {"y", "f"}
        np.testing.assert_allclose(file["y"], net.run({"x": x})["y"], rtol=1e-6)


def test_profile_lists_nodes(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", path, "--repeat", "1", "--dim", "N=2"]) == 0
    text = said(capsys)
    assert "Conv" in text and "portable" in text and "ms in nodes on cpu" in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["inspect", "none.onnx"], "InvalidModel: cannot open"),
        (["run", "{path}", "--inputs", "none.npz"], "InvalidInput: cannot read inputs"),
        (["run", "{path}", "--inputs", "{other}"], "the model needs ['x']"),
        (["run", "{path}", "--dim", "N"], "expected a symbol and a number"),
        (["run", "{path}", "--device", "tpu"], "DeviceUnavailable"),
        (["run", "{path}", "--keep", "nope"], "no value is called 'nope'"),
    ],
)
def test_faults_are_one_line_and_status_1(
    path: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    reason: str,
) -> None:
    np.savez(tmp_path / "other.npz", z=np.zeros(1))
    other = str(tmp_path / "other.npz")
    assert main([a.format(path=path, other=other) for a in arguments]) == 1
    error = capsys.readouterr().err
    assert reason in error and error.count("\n") == 1


def test_wrong_usage_is_status_2() -> None:
    for arguments in ([], ["frob"], ["inspect"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(mlp())
    command = [sys.executable, "-m", "engine", "run", str(tmp_path / "m.onnx"), "--keep", "ALL"]
    done = subprocess.run(command, cwd=PACKAGE_ROOT, capture_output=True, text=True, check=True)
    assert "[1, 4]" in done.stdout
