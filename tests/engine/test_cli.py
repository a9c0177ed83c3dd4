"""The command line, called in this process."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.cli import diff, main
from engine.cli.tables import counted
from engine.comparison import Side, run_side
from engine.isolate import PACKAGE_ROOT
from tests.engine.onnx_models import convnet, load, mlp, model, node, normal
from tests.engine.passes.test_integer_weights import tied


@pytest.fixture
def path(tmp_path: Path) -> str:
    (tmp_path / "m.onnx").write_bytes(convnet())
    return str(tmp_path / "m.onnx")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def test_inspect_tells_shapes_weights_arithmetic_and_batching(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", path]) == 0
    text = said(capsys)
    assert "input x float32 N x 3 x 8 x 8" in text and "output y float32 N x 5" in text
    assert "221 parameters" in text and "Conv" in text and "BatchNormalization" not in text
    assert "batch: inputs ['x'], outputs ['y']" in text
    assert main(["inspect", path, "--level", "0"]) == 0
    text = said(capsys)
    assert "n_c Conv c: float32[N, 6, 8, 8] 162 20736*N" in text and "BatchNormalization" in text
    assert re.search(r"total 221 [\d*+N ]+", text)
    assert main(["inspect", path, "--summary"]) == 0
    text = said(capsys)
    assert "Conv" not in text and "221 parameters" in text


def test_compile_for_a_device_writes_what_runs_there(
    path: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = str(tmp_path / "a")
    assert main(["compile", path, "-o", artifact, "--device", "cpu"]) == 0
    assert "nodes after" in said(capsys)
    assert main(["run", artifact, "--device", "cpu", "--dim", "N=2"]) == 0
    assert "ms on cpu" in said(capsys)
    assert main(["run", artifact, "--device", "reference"]) == 1
    assert main(["compile", path, "--device", "cpu"]) == 0  # fills the store of machine code
    assert main(["compile", path, "--device", "nowhere"]) == 1
    assert "no device is called 'nowhere'" in capsys.readouterr().err


def test_progress_is_told_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    out = io.StringIO()
    monkeypatch.setattr("sys.stderr", out)
    with counted("kernels") as tell:
        tell(3, 7)
    assert "kernels" in out.getvalue() and "3/7" in out.getvalue()


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


def test_products_are_computed_in_the_precision_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "m.onnx").write_bytes(tied())
    path, artifact = str(tmp_path / "m.onnx"), str(tmp_path / "a")
    assert main(["inspect", path, "--precision", "int8"]) == 0
    assert "QuantizeRows" in said(capsys)
    assert main(["inspect", path]) == 0
    assert "QuantizeRows" not in said(capsys)
    assert main(["compile", path, "-o", artifact, "--precision", "int8"]) == 0
    options = ["--device", "reference", "--precision", "int8", "--repeat", "1"]
    for each in (path, artifact):
        assert main(["profile", each, *options, "--dim", "N=2", "--dim", "S=3"]) == 0
        assert "MatMulInteger" in said(capsys)


def test_run_takes_and_saves_arrays(path: str, tmp_path: Path) -> None:
    x = normal(2, 3, 8, 8)
    np.savez(tmp_path / "in.npz", x=x)
    save = tmp_path / "out.npz"
    arguments = ["run", path, "--inputs", str(tmp_path / "in.npz"), "--save", str(save)]
    assert main([*arguments, "--keep", "y", "--keep", "f"]) == 0
    with load(convnet()) as net, np.load(save) as file:
        assert set(file) == {"y", "f"}
        np.testing.assert_allclose(file["y"], net.run({"x": x})["y"], rtol=1e-6)


def test_diff_agrees_with_itself_and_with_onnxruntime(
    path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["diff", path, "--dim", "N=2"]) == 0
    assert "agree: reference O0 and cpu O2" in said(capsys)
    assert main(["diff", path, "--level", "O0", "--against", "onnxruntime"]) == 0
    assert re.search(r"7 values agree: cpu O0 and onnxruntime", said(capsys))
    assert main(["diff", path, "--device", "reference", "--level", "O0", "--level", "O1"]) == 0
    assert "reference O0 and reference O1" in said(capsys)


def test_diff_names_the_first_node_that_differs(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoiled(label: str, model: engine.Model, feeds: dict[str, np.ndarray]) -> Side:
        side = run_side(label, model, feeds)
        if label != "reference O0":
            side.values["r"][0, 0, 0, 0] += 0.5  # type: ignore[index]
            side.values["p"][...] += 0.25  # type: ignore[index]
        return side

    monkeypatch.setattr(diff, "run_side", spoiled)
    arguments = ["diff", path, "--device", "reference", "--device", "cpu", "--level", "O0"]
    assert main(arguments) == diff.DIFFERENT
    text = said(capsys)
    assert "reference O0 and cpu O0 first differ at node 'n_r' (Relu)" in text
    assert "value 'r': 1 of 384 elements; the largest at [0, 0, 0, 0]" in text
    assert "its input 'n' differs by " in text and "2 of 7 shared values differ" in text
    assert "p n_p GlobalAveragePool 0.25" in text


def test_profile_lists_nodes(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", path, "--repeat", "1", "--dim", "N=2"]) == 0
    text = said(capsys)
    assert "Conv" in text and "ToImage+" in text and "ms in nodes on cpu" in text


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["inspect", "none.onnx"], "InvalidModel: cannot open"),
        (["run", "{path}", "--inputs", "none.npz"], "InvalidInput: cannot read inputs"),
        (["run", "{path}", "--inputs", "{other}"], "the model needs ['x']"),
        (["run", "{path}", "--dim", "N"], "expected a symbol and a number"),
        (["run", "{path}", "--dim", "M=2"], "the inputs' symbols are ['N']"),
        (["run", "{path}", "--save", "{path}/out.npz"], "NotADirectoryError"),
        (["compile", "{path}", "-o", "{path}/out"], "NotADirectoryError"),
        (["compile", "{path}", "--dump", "{path}"], "FileExistsError"),
        (["run", "{path}", "--device", "tpu"], "DeviceUnavailable"),
        (["run", "{path}", "--keep", "nope"], "no value is called 'nope'"),
        (["diff", "{path}", "--device", "cpu", "--device", "cpu", "--device", "cpu"], "two runs"),
        (["diff", "{path}", "--level", "0", "--level", "2", "--against", "onnxruntime"], "once"),
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
    for arguments in ([], ["frob"], ["inspect"], ["diff", "m.onnx", "--level", "O9"]):
        with pytest.raises(SystemExit) as caught:
            main(arguments)
        assert caught.value.code == 2


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(mlp())
    command = [sys.executable, "-m", "engine", "run", str(tmp_path / "m.onnx"), "--keep", "ALL"]
    done = subprocess.run(command, cwd=PACKAGE_ROOT, capture_output=True, text=True, check=True)
    assert "[1, 4]" in done.stdout


def test_random_inputs_keep_to_dims_that_are_expressions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = [("x", ["past", 2]), ("y", ["length", 2]), ("mask", ["past+length", 2])]
    nodes = [node("Concat", ["x", "y"], ["xy"], axis=0), node("Mul", ["xy", "mask"], ["z"])]
    (tmp_path / "m.onnx").write_bytes(model(nodes, inputs, [("z", None)]))
    assert main(["run", str(tmp_path / "m.onnx"), "--dim", "past=3"]) == 0
    assert "[4, 2]" in said(capsys)


def test_diff_says_when_the_other_runtime_is_missing_or_refuses(
    path: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no\nkernel")

    monkeypatch.setattr("onnxruntime.InferenceSession", refuse)
    assert main(["diff", path, "--against", "onnxruntime"]) == 1
    assert "RunFailed: node 'm.onnx' (onnxruntime) failed: no kernel" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["diff", path, "--against", "onnxruntime"]) == 1
    assert "DeviceUnavailable: --against onnxruntime: it is not installed" in (
        capsys.readouterr().err
    )
