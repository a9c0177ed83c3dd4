"""Artifacts: what is written comes back the same, and what is damaged does not come back at all."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import engine
from engine import artifact_cache, artifact_compiler
from engine.artifact import Artifact, map_artifact, write_artifact
from engine.artifact_cache import SUFFIX, ArtifactCache, Key
from engine.artifact_source import SUFFIX as NOTE
from engine.compiler import CompileRequest, compile_model
from engine.container import (
    HUGE_PAGE,
    MAGIC,
    is_container,
    map_container,
    parse_container,
    write_container,
)
from engine.dtypes import DType
from engine.errors import InvalidModel
from engine.external_files import TICK_NS, is_unchanged, read_note
from engine.frontend.safety import facts_of
from engine.graph_json import GraphLoader, GraphWriter
from engine.ir.graph import Graph, Node, Value
from engine.ir.types import TensorType, symbol
from engine.limits import Limits
from engine.loading import model_from_artifact
from tests.engine.onnx_models import convnet, mlp, node, normal


@pytest.fixture
def written(tmp_path: Path) -> tuple[Artifact, Path]:
    made = compile_model(convnet())
    write_artifact(made, tmp_path / "a")
    return made, tmp_path / "a"


def test_an_artifact_comes_back_the_same(written: tuple[Artifact, Path]) -> None:
    made, path = written
    back = map_artifact(path)
    assert back.outputs == made.outputs and back.batch == made.batch
    assert back.parameters == made.parameters and back.external == {}
    assert back.graph.types == made.graph.types and back.graph.inputs == made.graph.inputs
    assert [n.op for n in back.graph.nodes] == [n.op for n in made.graph.nodes]
    x = normal(2, 3, 8, 8)
    with (
        model_from_artifact(made, "reference") as one,
        model_from_artifact(back, "reference") as two,
    ):
        np.testing.assert_array_equal(one.run({"x": x})["y"], two.run({"x": x})["y"])


def test_weights_are_aligned_and_mapped_read_only(written: tuple[Artifact, Path]) -> None:
    path = written[1]
    graph = map_artifact(path).graph
    arrays = [*graph.initializers.values(), *graph.constants.values()]
    assert arrays
    for array in arrays:
        assert array.ctypes.data % 64 == 0 and not array.flags.writeable


def test_a_mapping_outlives_its_file(written: tuple[Artifact, Path]) -> None:
    back = map_artifact(written[1])
    written[1].unlink()
    with model_from_artifact(back, "reference") as net:
        assert np.isfinite(net.run({"x": normal(1, 3, 8, 8)})["y"]).all()


def test_every_kind_of_attribute_and_array_comes_back() -> None:
    body = Graph("body", (), (Value("q", TensorType(DType.FLOAT32)),), (), {"q": normal(2)})
    attributes = {
        "i": 3,
        "f": float("nan"),
        "s": "text",
        "b": b"\0\xff",
        "ints": (1, 2),
        "floats": (1.5, float("inf")),
        "texts": ("a", "b"),
        "none": (),
        "array": np.array([1, 2], np.int8),
        "body": body,
    }
    n = symbol("N")
    kinds = {
        "x": TensorType(DType.BFLOAT16, (n, 2 * n + 1, 4)),
        "y": TensorType(DType.STRING),
    }
    arrays = {d.value: np.zeros((2, 0, 1), d.numpy) for d in DType if d is not DType.STRING}
    arrays |= {f"{d}1": np.ones(3, d.numpy) for d in DType if d is not DType.STRING}
    arrays["texts"] = np.array([["a", "ü"]], object)
    graph = Graph(
        "g",
        (Value("x", kinds["x"]),),
        (Value("y", kinds["y"]),),
        (Node("Op", ("x", ""), ("y", ""), attributes, "dom", 3, "name"),),
        arrays,
        kinds,
        {"twice": arrays["float321"]},
        {"key": "value"},
    )
    writer = GraphWriter()
    text = json.dumps(writer.graph(graph))
    assert len(writer.blobs) == 2 * (len(DType) - 1) + 2  # a shared array is written once
    back = GraphLoader([memoryview(bytes(b)) for b in writer.blobs]).graph(json.loads(text))
    assert back.types == kinds and back.metadata == {"key": "value"}
    for name, array in arrays.items():
        got = back.initializers[name]
        assert got.dtype == array.dtype and got.shape == array.shape
        assert got.tobytes() == array.tobytes() or got.tolist() == array.tolist()
    (got_node,) = back.nodes
    assert (got_node.op, got_node.inputs, got_node.outputs) == ("Op", ("x", ""), ("y", ""))
    assert (got_node.domain, got_node.version, got_node.name) == ("dom", 3, "name")
    for key in ("i", "s", "b", "ints", "floats", "texts", "none"):
        assert got_node.attributes[key] == attributes[key]
    assert np.isnan(got_node.attributes["f"])  # type: ignore[arg-type]
    assert got_node.attributes["array"].tolist() == [1, 2]  # type: ignore[union-attr]
    assert got_node.attributes["body"].name == "body"  # type: ignore[union-attr]


# ------------------------------------------------------------------------------ damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("artifact") / "a"
    write_artifact(compile_model(mlp()), path)
    return path.read_bytes()


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_any_changed_byte_is_noticed(whole: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(whole) - 1))
    bits = data.draw(st.integers(1, 255))
    damaged = bytearray(whole)
    damaged[place] ^= bits
    with pytest.raises(InvalidModel):
        parse_container(memoryview(damaged), "a")


@pytest.mark.parametrize("length", [0, 1, 63, 64, 100, -1])
def test_a_short_file_is_noticed(whole: bytes, tmp_path: Path, length: int) -> None:
    (tmp_path / "short").write_bytes(whole[:length])
    with pytest.raises(InvalidModel):
        map_artifact(tmp_path / "short")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert not is_container(tmp_path / "none")
    with pytest.raises(InvalidModel, match="cannot be mapped"):
        map_container(tmp_path / "none")


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"kind": "other", "compiler": 1},
        {"kind": "millrace-artifact", "compiler": -1},
        {"kind": "millrace-artifact", "compiler": 1, "batch": None},
        [],
    ],
)
def test_a_container_of_something_else_is_refused(
    tmp_path: Path, header: dict[str, object]
) -> None:
    write_container(tmp_path / "c", header, [])
    assert is_container(tmp_path / "c")
    with pytest.raises(InvalidModel):
        map_artifact(tmp_path / "c")


@pytest.mark.parametrize("size", [0, 1, 64, HUGE_PAGE - 64, HUGE_PAGE, 5 * HUGE_PAGE + 4097])
def test_blobs_of_all_sizes_come_back(tmp_path: Path, size: int) -> None:
    rng = np.random.default_rng(size)
    blobs = [
        rng.integers(0, 256, n, np.uint8) for n in (size, 3, size, 40 << 20 if size == 1 else 0)
    ]
    write_container(tmp_path / "c", {"size": size}, [blob.data for blob in blobs])
    container = map_container(tmp_path / "c")
    assert container.header == {"size": size} and len(container.blobs) == len(blobs)
    for got, blob in zip(container.blobs, blobs, strict=True):
        array = np.frombuffer(got, np.uint8)
        np.testing.assert_array_equal(array, blob)
        assert not array.size or array.ctypes.data % 64 == 0


def test_what_lies_far_apart_is_told_apart(tmp_path: Path) -> None:
    """Large blobs are checked by sums: swapped pages and two flips that cancel out are noticed."""
    rng = np.random.default_rng(0)
    data = rng.integers(0, 256, 9 << 20, np.uint8)
    write_container(tmp_path / "c", {}, [data.data])
    whole = np.fromfile(tmp_path / "c", np.uint8)
    begin = whole.tobytes().index(data[:64].tobytes())
    page = slice(begin + 4096, begin + 8192)
    damages = []
    for other in (begin + 8192, begin + 8192 + 512, begin + (5 << 20)):
        swapped = whole.copy()
        there = slice(other, other + 4096)
        swapped[page], swapped[there] = whole[there], whole[page]
        damages.append(swapped)
    flipped = whole.copy()
    words = flipped[begin : begin + 4096].view(np.uint64)
    words[3] += np.uint64(1 << 40)
    words[4] -= np.uint64(1 << 40)
    zeroed = whole.copy()
    zeroed[begin + (8 << 20) : begin + (8 << 20) + 4096] = 0
    for damaged in (*damages, flipped, zeroed):
        with pytest.raises(InvalidModel, match="checksum"):
            parse_container(memoryview(damaged.tobytes()), "c")


def test_headers_that_lie_about_blobs_are_refused(tmp_path: Path) -> None:
    write_container(tmp_path / "c", {"a": 1}, [b"12345", b"", b"x" * 100])
    container = map_container(tmp_path / "c")
    assert [bytes(b) for b in container.blobs] == [b"12345", b"", b"x" * 100]
    assert (tmp_path / "c").read_bytes().startswith(MAGIC)
    made = compile_model(mlp())
    cyclic = replace(made, graph=made.graph.replace(nodes=made.graph.nodes[::-1]))
    write_artifact(cyclic, tmp_path / "bad")
    with pytest.raises(InvalidModel, match="does not hold a graph"):
        map_artifact(tmp_path / "bad")


# ------------------------------------------------------------------------------ the cache


def test_keys_cover_source_request_and_device(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(mlp())
    cache = ArtifactCache(tmp_path / "cache")

    def name(data: bytes | Path, outputs: object = None, device: str = "") -> str:
        return cache.key(data, {"outputs": outputs}, Limits(), device).name

    assert name(mlp()) == name(tmp_path / "m") != name(convnet())
    assert len({name(mlp()), name(mlp(), ["h"]), name(mlp(), None, "cpu")}) == 3


def entries(folder: Path) -> list[str]:
    """Return the names of all artifacts that a cache holds."""
    found = (p.name for p in (folder / artifact_cache.FOLDER).iterdir())
    return sorted(name for name in found if not name.endswith(NOTE))


def test_a_cache_keeps_what_was_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = engine.load(mlp(), cache_dir=tmp_path)
    assert len(entries(tmp_path)) == 1 and entries(tmp_path)[0].endswith(".artifact")
    monkeypatch.setattr("engine.artifact_compiler.compile_model", None)  # it would fail
    second = engine.load(mlp(), cache_dir=tmp_path)
    x = normal(2, 8)
    np.testing.assert_array_equal(first.run({"x": x})["y"], second.run({"x": x})["y"])


def test_damage_in_the_cache_is_repaired(tmp_path: Path) -> None:
    engine.load(mlp(), cache_dir=tmp_path).close()
    (entry,) = (tmp_path / artifact_cache.FOLDER).iterdir()
    data = bytearray(entry.read_bytes())
    data[-1] ^= 1
    entry.write_bytes(data)
    engine.load(mlp(), cache_dir=tmp_path).close()
    map_artifact(entry)


def test_a_failed_compilation_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel):
        engine.load(b"garbage", cache_dir=tmp_path)
    assert entries(tmp_path) == []


def write_with_external(folder: Path, number: float) -> Path:
    """Write y = x + w, w being four times a number in a file of its own."""
    built = helper.make_graph(
        [node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [TensorProto(name="w", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)],
    )
    built.initializer[0].external_data.add(key="location", value="w.bin")
    whole = helper.make_model(built, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    folder.mkdir(exist_ok=True)
    (folder / "m.onnx").write_bytes(whole.SerializeToString())
    np.full(4, number, np.float32).tofile(folder / "w.bin")
    return folder / "m.onnx"


def loaded_sum(path: Path, cache: Path, isolate: bool = False) -> list[float]:
    """Load y = x + w through a cache and return w."""
    with engine.load(path, cache_dir=cache, device="reference", isolate=isolate) as net:
        result: list[float] = net.run({"x": np.zeros(4, np.float32)})["y"].tolist()
        return result


@pytest.mark.parametrize("isolate", [False, True])
def test_external_data_is_part_of_what_is_kept(
    isolate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    paths = [write_with_external(tmp_path / str(number), number) for number in (1, 2)]
    time.sleep(2 * TICK_NS / 1e9)  # what was written just now may change within the same tick
    for number, path in enumerate(paths, start=1):
        assert loaded_sum(path, cache, isolate) == [number] * 4
    assert sum(name.endswith(SUFFIX) for name in entries(cache)) == 2
    monkeypatch.setattr("engine.artifact_compiler.compile_model", None)  # it would fail
    for number, path in enumerate(paths, start=1):
        assert loaded_sum(path, cache) == [number] * 4


def test_external_data_that_changed_is_noticed(tmp_path: Path) -> None:
    path, cache = write_with_external(tmp_path / "m", 1), tmp_path / "cache"
    time.sleep(2 * TICK_NS / 1e9)
    assert loaded_sum(path, cache) == [1] * 4
    for number in (2, 3):
        write_with_external(tmp_path / "m", number)
        assert loaded_sum(path, cache) == [number] * 4


def test_external_data_written_just_now_is_not_kept(tmp_path: Path) -> None:
    name, read_ns = "w.bin", time.time_ns()
    (tmp_path / name).write_bytes(b"w")
    facts = facts_of((tmp_path / name).stat())
    assert not is_unchanged(tmp_path, (name, (*facts, read_ns)))
    assert is_unchanged(tmp_path, (name, (*facts, read_ns + 10 * TICK_NS)))
    (tmp_path / name).write_bytes(b"other")
    assert not is_unchanged(tmp_path, (name, (*facts, read_ns + 10 * TICK_NS)))
    (tmp_path / name).unlink()
    assert not is_unchanged(tmp_path, (name, (*facts, read_ns + 10 * TICK_NS)))


@pytest.mark.parametrize("text", ["", "{}", "[]", '["../w.bin"]', "[1]", '"w.bin"', "[null]"])
def test_damaged_notes_are_no_notes(text: str, tmp_path: Path) -> None:
    (tmp_path / "n").write_text(text)
    assert read_note(tmp_path / "n") is None


def test_a_file_that_changes_while_it_compiles_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its artifact may be of either form; under the key of one it would pass for that one."""
    source, cache = tmp_path / "m.onnx", tmp_path / "cache"
    source.write_bytes(mlp())
    compile_now = artifact_compiler.compile_model

    def slowly(*given: Any, **options: Any) -> Artifact:
        source.write_bytes(mlp() + b"\x12\x01m")  # another producer's name
        return compile_now(*given, **options)

    monkeypatch.setattr(artifact_compiler, "compile_model", slowly)
    engine.load(source, cache_dir=cache).close()
    assert entries(cache) == []
    monkeypatch.undo()
    engine.load(source, cache_dir=cache).close()
    assert len(entries(cache)) == 1


def test_the_cache_is_bounded_and_the_longest_unused_goes(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, max_bytes=1)
    made = compile_model(mlp())
    stale = tmp_path / artifact_cache.FOLDER / f"{artifact_cache.UNFINISHED}1-a"
    stale.write_bytes(b"")
    os.utime(stale, (1, 1))
    for age, key in enumerate("abc"):
        with cache.new_file() as path:
            write_artifact(made, path)
            os.utime(path, (1000 + age, 1000 + age))
            cache.keep(path, Key(key))
    assert entries(tmp_path) == ["c.artifact"]
    assert cache.find(Key("c"), map_artifact) is not None
    assert cache.find(Key("a"), map_artifact) is None


def test_levels_and_outputs_make_requests() -> None:
    request = CompileRequest(outputs=("h",), level=0)
    made = compile_model(mlp(), request)
    assert made.outputs == ("h",) and len(made.graph.nodes) == 4
    with pytest.raises(engine.InvalidInput, match=r"no value is called 'nope'.*'z'"):
        compile_model(mlp(), CompileRequest(outputs=("nope",)))
