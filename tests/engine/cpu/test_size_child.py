"""Sizes compiled by a child: the same plans, and a server that goes on whatever becomes of it."""

from __future__ import annotations

import gc
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper as h

import engine
from engine.container import descriptor_of, map_container, map_descriptor, write_container
from engine.cpu import size_child, size_worker, specializing
from engine.cpu.compile_worker import command_of
from engine.cpu.compiled import CompiledGraph
from engine.cpu.device import CpuDevice
from engine.cpu.native_artifact import fingerprint, read_whole
from engine.cpu.plan import CpuPlan
from engine.cpu.size_child import MODULE, SizeChildren
from engine.cpu.size_order import ANSWER, REPORT, SizeOrder
from engine.cpu.specializing import SpecializingPlan
from engine.cpu.target import host_target
from engine.device import CompileOptions
from engine.errors import DeviceUnavailable, InvalidModel, ResourceLimit, RunCancelled
from engine.isolate import error_from_json
from tests.engine.onnx_models import model, normal
from tests.waiting import wait_until

PATIENCE_S = 300.0
LIMITS = engine.Limits(load_s=300.0)  # children stand back behind everything else


def source() -> bytes:
    """Convolutions of any pictures, and a portable node with a large table."""
    rng = np.random.default_rng(0)
    fixed = {
        "w": rng.standard_normal((8, 3, 3, 3)).astype(np.float32),
        "v": rng.standard_normal((4, 8, 1, 1)).astype(np.float32),
        "table": rng.standard_normal(50_000).astype(np.float32),
        "flat": np.array([-1]),
        "zero": np.zeros((), np.float32),
    }
    nodes = [
        h.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        h.make_node("Relu", ["a"], ["b"]),
        h.make_node("Conv", ["b", "v"], ["y"]),
        h.make_node("Reshape", ["x", "flat"], ["r"]),
        h.make_node("Greater", ["r", "zero"], ["g"]),
        h.make_node("Compress", ["table", "g"], ["c"]),
    ]
    return model(nodes, [("x", ["N", 3, "H", "W"])], [("y", None), ("c", None)], fixed)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that has the model compiled."""
    folder = tmp_path_factory.mktemp("sizes")
    engine.load(source(), device="cpu", cache_dir=folder, limits=LIMITS).close()
    return folder


@pytest.fixture
def native(cache: Path) -> Iterator[engine.Model]:
    with engine.load(source(), device="cpu", cache_dir=cache, limits=LIMITS, threads=1) as loaded:
        yield loaded


def plan_of(loaded: engine.Model) -> SpecializingPlan:
    plan = loaded._plan
    assert isinstance(plan, SpecializingPlan)
    return plan


def children_of(plan: SpecializingPlan) -> SizeChildren:
    children = getattr(plan._cancel, "__self__", None)
    assert isinstance(children, SizeChildren)
    return children


def order_for(plan: SpecializingPlan, **changes: Any) -> SizeOrder:
    children = children_of(plan)
    fields: dict[str, Any] = {
        "descriptor": children.descriptor,
        "whole": children.whole,
        "sizes": {"H": 7, "W": 5},
        "known": (),
        "precision": children.precision,
        "limits": children.limits,
        "fingerprint": fingerprint(host_target(), children.precision),
        "memory_bytes": 4 << 30,
    }
    return SizeOrder(**(fields | changes))


# ------------------------------------------------------------------------------ what comes back


def test_sizes_are_right_and_share_what_they_can(native: engine.Model) -> None:
    plan = plan_of(native)
    general = plan._general
    assert isinstance(general, CpuPlan)
    with engine.load(source(), device="reference") as portable:
        for height, width in ((7, 5), (16, 8)):
            x = normal(2, 3, height, width)
            want = portable.run({"x": x})
            for _ in range(2):
                got = native.run({"x": x})
                np.testing.assert_allclose(got["y"], want["y"], 1e-4, 1e-5)
                np.testing.assert_array_equal(got["c"], want["c"])
                assert plan.wait(PATIENCE_S)
    first, second = plan._plans.values()
    assert isinstance(first, CpuPlan) and isinstance(second, CpuPlan)
    assert not [each for each in first.coverage if each.node.op == "Conv" and each.reason]
    tables = [p.compiled.graph.initializers["table"] for p in (first, second)]
    assert tables[0].ctypes.data == tables[1].ctypes.data
    assert first.compiled.lanes is second.compiled.lanes is plan._beside.lanes
    arrays = [a for p in (first, second) for a in p.compiled.weights.arrays]
    places = {int(a.ctypes.data) for a in arrays}
    assert len(places) == len({a.tobytes() for a in arrays}) < len(arrays)
    report = native.memory()
    kept = {id(each): each for each in plan._beside.weights.known().values() if each.is_own}
    own = sum(each.array.nbytes for each in kept.values())
    assert report.weights_bytes == general.memory()["weights_bytes"] + own


def test_bf16_is_compiled_as_bf16(tmp_path: Path) -> None:
    if not host_target().has_bf16_dot:
        pytest.skip("this processor multiplies no bfloat16")
    fixed = {"w": normal(32, 16, 3, 3)}
    conv = h.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)
    data = model([conv], [("x", ["N", 16, "H", "W"])], [("y", None)], fixed)
    x, results = normal(1, 16, 12, 12), []
    for cache_dir in (None, tmp_path):
        with engine.load(
            data, device="cpu", precision="bf16", cache_dir=cache_dir, limits=LIMITS
        ) as loaded:
            plan = plan_of(loaded)
            loaded.run({"x": x})
            assert plan.wait(PATIENCE_S) and plan._plan_for((12, 12)) is not None
            results.append(loaded.run({"x": x})["y"])
    np.testing.assert_array_equal(*results)


def test_the_process_that_serves_never_imports_the_compiler(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(source())
    code = (
        "import sys, numpy, engine\n"
        "limits = engine.Limits(load_s=300.0)\n"
        "net = engine.load(sys.argv[1], device='cpu', cache_dir=sys.argv[2], limits=limits)\n"
        "net._plan._plan_for((6, 4))\n"
        "assert net._plan.wait(300) and net._plan._plan_for((6, 4)) is not None\n"
        "net.run({'x': numpy.zeros((1, 3, 6, 4), numpy.float32)})\n"
        "names = ('onnx', 'engine.cpu.compiling', 'engine.cpu.lower.context')\n"
        "print([name for name in names if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.onnx"), str(cache)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_file_that_has_lost_its_name_will_do(tmp_path: Path) -> None:
    with engine.load(source(), device="cpu", cache_dir=tmp_path, limits=LIMITS) as loaded:
        for path in (tmp_path / "models").iterdir():
            path.unlink()
        plan = plan_of(loaded)
        plan._plan_for((5, 5))
        assert plan.wait(PATIENCE_S)
        assert plan._plan_for((5, 5)) is not None


# ------------------------------------------------------------------------------ the child's side


def test_what_the_parent_knows_is_left_out(native: engine.Model, tmp_path: Path) -> None:
    order = order_for(plan_of(native))
    order.write(tmp_path)
    assert SizeOrder.read(tmp_path) == order
    size_worker.answer(order, tmp_path / "first")
    contents = map_container(tmp_path / "first").header["contents"]
    digests = tuple(digest for _, digest in contents)
    assert all(blob is not None for blob, _ in contents)
    assert len(set(digests)) == len(digests) > 2
    size_worker.answer(order_for(plan_of(native), known=digests), tmp_path / "second")
    again = map_container(tmp_path / "second").header["contents"]
    assert [tuple(each) for each in again] == [(None, digest) for digest in digests]


def test_a_compiler_of_another_version_is_refused(native: engine.Model, tmp_path: Path) -> None:
    order = order_for(plan_of(native), fingerprint="of another engine")
    with pytest.raises(DeviceUnavailable, match="restart"):
        size_worker.answer(order, tmp_path / "a")


@pytest.mark.parametrize("fails", [False, True])
def test_a_child_leaves_an_answer_or_a_report(
    native: engine.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    bounds: list[tuple[int, float]] = []
    monkeypatch.setattr(size_worker, "enter_limits", lambda *given: bounds.append(given))
    monkeypatch.setattr(size_worker, "_end_with_parent", lambda: None)
    plan = plan_of(native)
    limits = engine.Limits(load_s=0.0 if fails else 100.0)
    order_for(plan, limits=limits).write(tmp_path)
    try:
        assert size_worker.main(tmp_path) == int(fails)
    finally:
        gc.enable()
    assert bounds == [(4 << 30, limits.load_s)]
    assert (tmp_path / REPORT).exists() == fails
    if fails:
        assert isinstance(error_from_json((tmp_path / REPORT).read_bytes()), ResourceLimit)
    else:
        assert map_container(tmp_path / ANSWER).header["regions"]


def test_a_child_ends_with_its_parent(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "order")  # nobody writes to it: the child waits for ever
    command = [*command_of(MODULE), str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(PATIENCE_S) == 1


# ------------------------------------------------------------------------------ what may go wrong

Start = Callable[[Path, int], "subprocess.Popen[bytes]"]


def child_that(script: str) -> Start:
    """Return what starts a process of our own in place of the child; `{folder}` is told to it."""

    def start(folder: Path, descriptor: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", script.replace("{folder}", str(folder))]
        return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)

    return start


def refused(folder: Path, descriptor: int) -> subprocess.Popen[bytes]:
    raise OSError("no process is to be had")


DAMAGED = "import pathlib; pathlib.Path('{folder}/answer').write_bytes(b'none')"
FAILURES: Mapping[str, tuple[Start, str]] = {
    "killed": (child_that("import os; os.kill(0, 9)"), "more memory than there is"),
    "crashed": (child_that("import os; os.abort()"), "SIGABRT"),
    "silent": (child_that("raise SystemExit(3)"), "exit status 3"),
    "none": (refused, "no process is to be had"),
    "damaged": (child_that(DAMAGED), "its prefix"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_child_that_fails_leaves_the_general_plan_serving(
    name: str, native: engine.Model, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    start, reason = FAILURES[name]
    plan, x = plan_of(native), normal(1, 3, 9, 9)
    monkeypatch.setattr(size_child, "_start", start)
    with caplog.at_level(logging.WARNING):
        got = native.run({"x": x})["y"]
        assert plan.wait(PATIENCE_S)
    assert reason in caplog.text and "(9, 9)" in caplog.text
    assert plan._plan_for((9, 9)) is None
    np.testing.assert_array_equal(native.run({"x": x})["y"], got)
    assert not size_child._at_work


def test_what_failed_for_want_of_time_or_memory_is_tried_again_later(
    native: engine.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(native)
    started: list[int] = []

    def start(folder: Path, descriptor: int) -> subprocess.Popen[bytes]:
        started.append(descriptor)
        return refused(folder, descriptor)

    def ask(times: int) -> int:
        for _ in range(times):
            assert plan._plan_for((9, 9)) is None
            assert plan.wait(PATIENCE_S)
        return len(started)

    monkeypatch.setattr(size_child, "_start", start)
    assert ask(3) == 1
    monkeypatch.setattr(specializing, "RETRY_S", 0.0)
    plan._again[9, 9] = 0.0
    assert ask(2) == 3
    monkeypatch.setattr(size_child, "_start", child_that(DAMAGED))
    assert ask(1) == 3 and plan._again == {(9, 9): math.inf}
    monkeypatch.setattr(size_child, "_start", start)
    assert ask(2) == 3


def test_an_answer_that_is_none_is_refused(native: engine.Model, tmp_path: Path) -> None:
    write_container(tmp_path / "a", {"contents": [[0, "digest"]]}, [b"bytes"])
    with pytest.raises(InvalidModel, match="the child's answer"):
        children_of(plan_of(native))._taken_in(map_container(tmp_path / "a"), {})


SLEEPS = child_that("import sys; sys.stdin.read()")


def test_a_child_that_takes_too_long_is_killed(
    native: engine.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(size_child, "_start", lambda *given: noted(started, SLEEPS(*given)))
    children = children_of(plan_of(native))
    children.limits = engine.Limits(load_s=0.0)
    with pytest.raises(ResourceLimit, match="load_s=0"):
        children.compile({"H": 3, "W": 3})
    assert [child.returncode for child in started] == [-signal.SIGKILL]


def noted(
    started: list[subprocess.Popen[bytes]], child: subprocess.Popen[bytes]
) -> subprocess.Popen[bytes]:
    started.append(child)
    return child


def test_closing_ends_the_child_and_what_waits(
    cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    monkeypatch.setattr(size_child, "_start", lambda *given: noted(started, SLEEPS(*given)))
    with engine.load(source(), device="cpu", cache_dir=cache, limits=LIMITS) as loaded:
        plan = plan_of(loaded)
        for height in (3, 4, 5):
            plan._plan_for((height, 3))
        wait_until(lambda: started)
        with caplog.at_level(logging.WARNING):
            loaded.close()
            assert plan.wait(PATIENCE_S)
    assert [child.returncode for child in started] == [-signal.SIGKILL]
    assert not plan._plans and not caplog.text
    plan._plan_for((6, 6))
    assert plan.wait(PATIENCE_S) and len(started) == 1
    with pytest.raises(RunCancelled):
        children_of(plan).compile({"H": 3, "W": 3})
    assert len(started) == 1


def test_one_child_at_a_time_whatever_the_number_of_models(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once: list[int] = []
    start = size_child._start

    def counted(folder: Path, descriptor: int) -> subprocess.Popen[bytes]:
        at_once.append(len(size_child._at_work))
        return start(folder, descriptor)

    monkeypatch.setattr(size_child, "_start", counted)
    models = [engine.load(source(), device="cpu", cache_dir=cache, limits=LIMITS) for _ in range(2)]
    plans = [plan_of(each) for each in models]
    for plan in plans:
        plan._plan_for((4, 4))
    assert all(plan.wait(PATIENCE_S) for plan in plans)
    assert at_once == [1, 1]
    assert all(plan._plan_for((4, 4)) is not None for plan in plans)
    for each in models:
        each.close()


def test_a_model_that_waits_for_its_turn_can_be_closed(native: engine.Model) -> None:
    other = object()
    size_child._at_work.add(other)
    try:
        children, caught = children_of(plan_of(native)), threading.Event()

        def wait_for_turn() -> None:
            with pytest.raises(RunCancelled):
                children.compile({"H": 3, "W": 3})
            caught.set()

        waiting = threading.Thread(target=wait_for_turn)
        waiting.start()
        native.close()
        waiting.join(PATIENCE_S)
        assert caught.is_set()
        assert size_child._at_work == {other}
    finally:
        size_child._at_work.discard(other)


# ------------------------------------------------------------------------------ open files


def test_a_mapped_file_is_open_as_long_as_its_blobs(tmp_path: Path) -> None:
    write_container(tmp_path / "c", {}, [b"first", b"second"])
    container = map_container(tmp_path / "c")
    descriptor = descriptor_of(container.blobs[1])
    assert descriptor is not None and not os.get_inheritable(descriptor)
    (tmp_path / "c").unlink()
    again = map_descriptor(descriptor, "c")
    assert bytes(again.blobs[1]) == b"second"
    del container
    with pytest.raises(OSError, match="descriptor"):
        os.fstat(descriptor)
    assert descriptor_of(memoryview(b"bytes")) is None


def test_a_file_that_is_no_file_is_compiled_for_here(native: engine.Model, cache: Path) -> None:
    """As for bytes that somebody read: there is nothing that a child could be given."""
    path = next(p for p in (cache / "models").iterdir() if p.suffix == ".artifact")
    container = map_container(path)
    blobs = [memoryview(bytearray(blob)) for blob in container.blobs]
    data = json.loads(json.dumps(container.header["native"]["data"]))
    assert read_whole(blobs, data["sizes"]["whole"]).input_names == ("x",)
    plan = CpuDevice().read(data, native.graph, blobs, CompileOptions())
    assert isinstance(plan, SpecializingPlan)
    plan._plan_for((5, 5))
    assert plan.wait(PATIENCE_S)
    special = plan._plan_for((5, 5))
    assert isinstance(special, CpuPlan) and isinstance(special.compiled, CompiledGraph)
