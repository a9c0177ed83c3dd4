"""Compiling in a child: the same model, the same errors, limits that hold."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

import engine
from engine import child
from engine.__main__ import main
from engine.compiler import ALL, CompileRequest
from engine.errors import (
    DeviceUnavailable,
    EngineError,
    InvalidInput,
    InvalidModel,
    ResourceLimit,
    RunFailed,
    UnsupportedOp,
)
from engine.isolate import (
    PACKAGE_ROOT,
    ChildBudget,
    child_error,
    error_from_json,
    error_to_json,
    run_child,
)
from engine.request_json import read_request, write_request
from tests.engine.onnx_models import convnet, mlp, model, node, normal
from tests.waiting import wait_until

# Children stand behind everybody else who wants a core.
BUDGET = ChildBudget(wall_s=300.0, memory_bytes=4 << 30)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))


def test_a_child_gives_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(convnet())
    before = open_descriptors()
    x = normal(2, 3, 8, 8)
    with engine.load(convnet()) as here, engine.load(tmp_path / "m.onnx", isolate=True) as there:
        assert here.inputs == there.inputs and here.batch == there.batch
        assert here.metadata == there.metadata and here.parameters == there.parameters
        np.testing.assert_array_equal(here.run({"x": x})["y"], there.run({"x": x})["y"])
    del here, there
    wait_until(lambda: open_descriptors() <= before + 1)  # threads of other tests have some, too


def test_bytes_and_kept_outputs_go_through_too(tmp_path: Path) -> None:
    with engine.load(mlp(), isolate=True, outputs=["a"], cache_dir=tmp_path) as net:
        assert net.kept == ("a",)
    assert len(list((tmp_path / "models").iterdir())) == 1
    with engine.load(mlp(), isolate=True, outputs=engine.ALL) as net:
        assert set(net.kept) >= {"h", "a", "z", "y"}


def test_errors_travel_back_whole() -> None:
    foreign = model(
        [node("Frob", ["x"], ["y"], domain="my", name="here")],
        [("x", [1])],
        [("y", [1])],
        domains={"my": 2},
    )
    with pytest.raises(UnsupportedOp) as caught:
        engine.load(foreign, isolate=True)
    assert (caught.value.node, caught.value.op, caught.value.opset) == ("here", "Frob", 2)
    with pytest.raises(InvalidModel, match="not an ONNX"):
        engine.load(b"garbage", isolate=True)
    with pytest.raises(ResourceLimit, match="nodes=2"):
        engine.load(mlp(), isolate=True, limits=engine.Limits(nodes=2))


def test_a_child_that_takes_too_long_is_killed(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(mlp())
    before = children()
    with pytest.raises(ResourceLimit, match=r"load_s=0\.05"):
        run_child(
            tmp_path / "m.onnx",
            tmp_path / "a",
            write_request(CompileRequest()),
            ChildBudget(wall_s=0.05, memory_bytes=4 << 30),
        )
    assert children() <= before and not (tmp_path / "a").exists()


def test_the_child_binds_its_memory_and_priority() -> None:
    code = (
        "import os; from engine.isolate import enter_limits; enter_limits(1 << 20, 30.0);"
        "assert os.nice(0) >= 10\n"
        "try: bytearray(4 << 30)\n"
        "except MemoryError: print('bound')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE_ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "bound"


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (MemoryError(), ResourceLimit),
        (KeyError("a fault of ours"), InvalidModel),
        (OSError("no space"), ResourceLimit),
        (UnsupportedOp("n", "Op", "", 1), UnsupportedOp),
    ],
)
def test_whatever_fails_in_the_child_is_reported(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
    failure: Exception,
    kind: type[EngineError],
) -> None:
    def fail(*_: object) -> None:
        raise failure

    order = {**write_request(CompileRequest()), "memory_bytes": 1, "cpu_s": 1}
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(order)))
    monkeypatch.setattr(child, "enter_limits", lambda *_: None)
    (tmp_path / "m.onnx").write_bytes(mlp())
    arguments = ["compile", str(tmp_path / "m.onnx"), "-o", str(tmp_path / "a"), "--isolated"]
    assert main(arguments) == 0 and (tmp_path / "a").exists()
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(order)))
    monkeypatch.setattr(child, "compile_to_file", fail)
    assert main(arguments) == 1
    assert type(error_from_json(capsysbinary.readouterr().out)) is kind


def test_the_child_sees_no_tokens_and_no_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child is this interpreter; what it would report of itself is asked of it here."""
    monkeypatch.setenv("MILLRACE_ADMIN_TOKEN", "secret")
    monkeypatch.setenv("MILLRACE_AMX", "off")  # or the child would compile for another target
    asked = tmp_path / "sitecustomize.py"
    asked.write_text(
        "import json, os\n"
        f"open({str(tmp_path / 'seen')!r}, 'w').write(json.dumps("
        "[dict(os.environ), sorted(os.listdir('/proc/self/fd'))]))\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "m.onnx").write_bytes(mlp())
    with (tmp_path / "held").open("w") as held:
        os.set_inheritable(held.fileno(), True)
        run_child(tmp_path / "m.onnx", tmp_path / "a", write_request(CompileRequest()), BUDGET)
        environment, descriptors = json.loads((tmp_path / "seen").read_text())
        assert str(held.fileno()) not in descriptors or len(descriptors) <= 5
    ours = {key for key in environment if key.startswith("MILLRACE_")}
    assert {"MILLRACE_AMX"} <= ours <= {"MILLRACE_AMX", "MILLRACE_CACHE_DIR"}
    assert {"0", "1", "2"} <= set(descriptors) and len(descriptors) <= 5


@pytest.mark.parametrize(
    "error",
    [
        InvalidModel("why"),
        UnsupportedOp("n", "Op", "d", 3, "because"),
        ResourceLimit("n", 5, "limit=4"),
        InvalidInput("x"),
        DeviceUnavailable("y"),
        RunFailed("n", "Op", "z"),
    ],
)
def test_errors_survive_json(error: EngineError) -> None:
    back = error_from_json(error_to_json(error))
    assert type(back) is type(error) and str(back) == str(error)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"error": "SystemExit", "arguments": [1]}',
        b'{"error": "annotations", "arguments": []}',
        b'{"error": "UnsupportedOp", "arguments": [1]}',
    ],
)
def test_reports_are_not_trusted(text: bytes) -> None:
    assert error_from_json(text) is None
    assert isinstance(child_error(text, 1, "m", BUDGET), InvalidModel)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (-signal.SIGXCPU, ResourceLimit),
        (-signal.SIGKILL, ResourceLimit),
        (-signal.SIGSEGV, InvalidModel),
    ],
)
def test_deaths_are_told_apart(code: int, kind: type[EngineError]) -> None:
    assert type(child_error(b"", code, "m", BUDGET)) is kind


def test_operators_of_ones_own_cannot_be_isolated() -> None:
    operator = next(
        iter(__import__("engine.ops.registry", fromlist=["REGISTRY"]).REGISTRY.operators())
    )
    with pytest.raises(ValueError, match="isolate=False"):
        engine.load(mlp(), isolate=True, ops=[operator])


def test_requests_survive_json() -> None:
    for outputs in (None, ALL, ("a", "b")):
        request = CompileRequest(outputs=outputs, level=1, limits=engine.Limits(nodes=7))
        back = read_request(json.loads(json.dumps(write_request(request))))
        assert back.level == 1 and back.limits.nodes == 7
        assert (
            back.outputs is ALL
            if outputs is ALL
            else (back.outputs and tuple(back.outputs)) == outputs
        )


def test_the_child_imports_little(tmp_path: Path) -> None:
    """Most of its time goes into importing: a server waits for it at every load."""
    (tmp_path / "m.onnx").write_bytes(mlp())
    code = (
        "import sys; from pathlib import Path; from engine import child;"
        "status = child.main(Path(sys.argv[1]), Path(sys.argv[2]));"
        "print(*sys.modules, file=sys.stderr); sys.exit(status)"
    )
    order = {**write_request(CompileRequest()), "memory_bytes": 4 << 30, "cpu_s": 300}
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "m.onnx"), str(tmp_path / "a")],
        input=json.dumps(order),
        capture_output=True,
        text=True,
        check=True,
        cwd=PACKAGE_ROOT,
    )
    modules = done.stderr.split()
    heavy = {"onnxruntime", "scipy", "faiss", "pydantic", "server", "uvicorn", "torch"}
    assert "onnx" in modules and not heavy & set(modules)
    assert len(modules) < 900  # 620 when this was written


def test_a_process_that_loads_isolated_never_imports_the_onnx_parser(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(mlp())
    code = (
        "import sys, engine\n"
        "engine.load(sys.argv[1], isolate=True).close()\n"
        "print('onnx' in sys.modules, 'google.protobuf' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "False"]
