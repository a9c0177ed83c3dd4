"""Static slots: runs in place over the first rows, on every device alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import llvmlite.ir as ir
import numpy as np
import pytest
from onnx import TensorProto

import engine
from engine.artifact_cache import FOLDER
from engine.container import map_container
from engine.cpu.code_store import kernel_key
from engine.cpu.kernel import Kernel, KernelBuilder
from engine.cpu.tails import TAILS
from engine.cpu.target import Target, host_target
from engine.device import TailStep
from tests.engine.onnx_models import mlp, model, node

RNG = np.random.default_rng(3)
DEVICES = pytest.mark.parametrize("device", ["cpu", "reference"])


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def caching(seed: int = 3) -> bytes:
    """A projection of each row is appended to a cache and compared with what is there."""
    random = np.random.default_rng(seed)
    weights = {
        "w": random.standard_normal((8, 8)).astype(np.float32),
        "table": random.standard_normal((30, 8)).astype(np.float32),
        "one": np.array([1], np.int64),
    }
    nodes = [
        node("Gather", ["table", "token"], ["x"]),
        node("Unsqueeze", ["x", "one"], ["x3"]),
        node("MatMul", ["x3", "w"], ["q"]),
        node("AppendCache", ["past", "q", "slot", "position"], ["present"], domain="millrace"),
        node(
            "IndexedAttention",
            ["x3", "present", "present", "history", "slot", "position"],
            ["y"],
            domain="millrace",
            heads=2,
        ),
    ]
    integers = TensorProto.INT64
    inputs = [
        ("token", ["N"], integers),
        ("slot", ["N"], integers),
        ("position", ["N"], integers),
        ("history", ["R", "T"], TensorProto.INT32),
        ("past", ["R", "T", 8]),
    ]
    outputs = [("y", ["N", 1, 8]), ("present", ["R", "T", 8])]
    return model(nodes, inputs, outputs, weights, domains={"millrace": 1})


def recurrent() -> bytes:
    """The next state needs all of the present one: it cannot be written over it."""
    nodes = [
        node("MatMul", ["mix", "h"], ["m"]),
        node("Tanh", ["m"], ["next"]),
        node("ReduceSum", ["next"], ["s"], keepdims=0),
        node("Add", ["x", "s"], ["y"]),
    ]
    weights = {"mix": normal(5, 5)}
    return model(
        nodes, [("x", ["N", 2]), ("h", [5, 3])], [("y", ["N", 2]), ("next", [5, 3])], weights
    )


@DEVICES
def test_any_number_of_rows(device: str) -> None:
    loaded = engine.load(mlp(), device=device)
    slots = loaded.bind({"N": 7})
    assert slots.is_native is (device == "cpu")
    x = slots.inputs["x"]
    for rows in (7, 1, 3, 7, 2):
        x[...] = normal(*x.shape)
        slots.outputs["y"][...] = -1
        slots.run(rows)
        np.testing.assert_array_equal(slots.outputs["y"][:rows], loaded.run({"x": x[:rows]})["y"])
        assert (slots.outputs["y"][rows:] == -1).all()


@DEVICES
def test_a_cache_grows_in_place(device: str) -> None:
    loaded = engine.load(caching(), device=device)
    sizes = {"N": 3, "R": 4, "T": 6}
    slots = loaded.bind(sizes, state={"past": "present"})
    assert slots.outputs["present"] is slots.inputs["past"]
    history = np.repeat(np.arange(4, dtype=np.int32)[:, None], 6, 1)
    slots.inputs["history"][...] = history
    cache = np.zeros((4, 6, 8), np.float32)
    for step in range(6):
        rows = step % 3 + 1
        feeds = {
            "token": RNG.integers(0, 30, rows),
            "slot": RNG.permutation(4)[:rows],
            "position": np.full(rows, step),
        }
        for name, value in feeds.items():
            slots.inputs[name][:rows] = value
        slots.run(rows)
        wanted = loaded.run({**feeds, "history": history, "past": cache})
        cache = wanted["present"]
        np.testing.assert_array_equal(slots.outputs["present"], cache)
        np.testing.assert_array_equal(slots.outputs["y"][:rows], wanted["y"])


def test_a_model_that_was_compiled_before_is_bound_alike(tmp_path: Path) -> None:
    found = []
    for _ in range(2):
        loaded = engine.load(caching(), cache_dir=tmp_path)
        slots = loaded.bind({"N": 2, "R": 2, "T": 3}, state={"past": "present"})
        assert slots.is_native
        slots.inputs["token"][...], slots.inputs["slot"][...] = [4, 5], [0, 1]
        slots.inputs["history"][...] = [[0] * 3, [1] * 3]
        for step in range(3):
            slots.inputs["position"][...] = step
            slots.run()
        found.append(np.concatenate([a.ravel() for a in slots.outputs.values()]))
    assert found[0].any()
    np.testing.assert_array_equal(*found)


@DEVICES
def test_a_state_that_must_not_be_overwritten_while_it_is_read(device: str) -> None:
    loaded = engine.load(recurrent(), device=device)
    slots = loaded.bind({"N": 4}, state={"h": "next"})
    state = slots.inputs["h"][...] = normal(5, 3)
    slots.inputs["x"][...] = normal(4, 2)
    for _ in range(3):
        wanted = loaded.run({"x": slots.inputs["x"], "h": state})
        slots.run()
        np.testing.assert_array_equal(slots.outputs["next"], wanted["next"])
        np.testing.assert_array_equal(slots.outputs["y"], wanted["y"])
        state = wanted["next"]


@DEVICES
def test_a_run_that_fails_leaves_the_slots_usable(device: str) -> None:
    slots = engine.load(caching(), device=device).bind({"N": 2, "R": 2, "T": 2})
    slots.inputs["token"][1] = 99
    with pytest.raises(engine.RunFailed, match="Gather"):
        slots.run(2)
    slots.run(1)
    slots.inputs["token"][1] = 3
    slots.inputs["slot"][1] = 1
    slots.run(2)


@DEVICES
def test_what_does_not_fit_is_told(device: str) -> None:
    loaded = engine.load(caching(), device=device)
    sizes = {"N": 2, "R": 2, "T": 2}
    for wrong, state, told in (
        ({"N": 2, "R": 2}, {}, "'T'"),
        ({}, {}, "sizes"),
        (sizes, {"past": "y"}, "type and shape"),
        (sizes, {"token": "present"}, "type and shape"),
        (sizes, {"past": "nothing"}, "nothing"),
        (sizes, {"nothing": "present"}, "nothing"),
        ({**sizes, "T": -1}, {}, "shape"),
    ):
        with pytest.raises(engine.InvalidInput, match=told):
            loaded.bind(wrong, state=state)
    with pytest.raises(engine.InvalidInput, match="first axis"):
        loaded.bind(sizes, rows="T")
    with pytest.raises(engine.InvalidInput, match="rows='L'"):
        loaded.bind(sizes, rows="L")
    slots = loaded.bind(sizes)
    for rows in (0, 3, -1):
        with pytest.raises(engine.InvalidInput, match="1 to 2 rows"):
            slots.run(rows)
    slots.close()
    with pytest.raises(engine.ModelClosed):
        slots.run(1)
    loaded.close()
    with pytest.raises(engine.ModelClosed):
        loaded.bind(sizes)


def test_slots_outlive_their_model() -> None:
    loaded = engine.load(mlp())
    slots = loaded.bind({"N": 2})
    slots.inputs["x"][...] = 1
    wanted = loaded.run({"x": slots.inputs["x"]})["y"]
    loaded.close()
    del loaded
    slots.run()
    np.testing.assert_array_equal(slots.outputs["y"], wanted)
    assert slots.memory_bytes() > slots.inputs["x"].nbytes


@dataclass(frozen=True)
class Doubled(Kernel):
    """operands: to, source, both of int64 per row; adds the number of rows, too."""

    def emit(self, module: ir.Module, name: str, target: Target) -> None:
        f = KernelBuilder(module, name, target)
        with f.loop(f.low, f.high) as row:
            source = f.b.load(f.at_bytes(f.operand(1), f.mul(row.i, 8)), typ=ir.IntType(64))
            found = f.add(f.mul(source, 2), f.number(0))
            f.b.store(found, f.at_bytes(f.operand(0), f.mul(row.i, 8)))
        f.ret()


def test_a_tail_runs_after_every_step() -> None:
    slots = engine.load(caching()).bind({"N": 4, "R": 4, "T": 5}, state={"past": "present"})
    result, again = np.zeros(4, np.int64), np.zeros(4, np.int64)
    tail = [
        TailStep(Doubled(), [result, slots.inputs["token"]]),
        TailStep(Doubled(), [again, result]),
    ]
    slots.inputs["slot"][...] = np.arange(4)
    slots.run(2)  # what was packed before must not be taken after
    assert slots.append_tail(tail)
    slots.inputs["token"][...] = [3, 4, 5, 6]
    slots.run(2)
    assert result.tolist() == [8, 10, 0, 0]
    assert again.tolist() == [18, 22, 0, 0]
    slots.run(4)
    assert result.tolist() == [10, 12, 14, 16]
    assert not slots.append_tail([TailStep("no kernel", [])])
    with pytest.raises(ValueError, match="dense"):
        slots.append_tail([TailStep(Doubled(), [result[::2], again])])


def test_devices_without_native_programs_take_no_tail() -> None:
    slots = engine.load(mlp(), device="reference").bind({"N": 4})
    assert not slots.append_tail([TailStep(Doubled(), [np.zeros(4, np.int64)] * 2)])


@pytest.mark.parametrize("source", [caching(), mlp()])
def test_the_search_is_compiled_beside_a_decoder(source: bytes, tmp_path: Path) -> None:
    """A process that maps a compiled model compiles nothing for its tail either."""
    engine.load(source, cache_dir=tmp_path).close()
    (file,) = (tmp_path / FOLDER).iterdir()
    kept = map_container(file).header["native"]["data"]["code"]
    tails = {kernel_key(kernel, host_target()) for kernel in TAILS.values()}
    assert tails & kept.keys() == (tails if source == caching() else set())
