"""Compiled models in files: the same results, nothing compiled, nothing damaged or foreign used."""

from __future__ import annotations

import dataclasses
import errno
import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from onnx import helper as h

import engine
from engine import artifact_cache
from engine.artifact import map_artifact
from engine.artifact_source import SUFFIX as NOTE
from engine.artifact_source import FileState, KnownHashes
from engine.compiler import compile_model
from engine.container import is_private
from engine.cpu import native_artifact, parallel_compile
from engine.cpu.buffers import Buffer, Fault, PlainLayout, Program, Requirement, Step
from engine.cpu.code_store import CodeStore, kernel_key
from engine.cpu.compiling import GraphCompiler, kernels_of
from engine.cpu.image_layout import ImageLayout
from engine.cpu.plan import CpuPlan
from engine.cpu.program_json import StoredKernel, read_dim, write_dim
from engine.cpu.specializing import SpecializingPlan
from engine.cpu.target import host_target
from engine.errors import InvalidModel, RunFailed
from engine.ir.types import ceildiv, dim_max, symbol
from engine.loading import model_from_artifact
from engine.ops.registry import REGISTRY
from tests.engine.onnx_models import convnet, mlp, model, node, normal

PHOTOS = Path(__file__).resolve().parents[3] / "model_repo" / "photos" / "1" / "model.onnx"


def kept(folder: Path) -> list[Path]:
    """Return the artifacts in a cache."""
    found = (folder / artifact_cache.FOLDER).iterdir()
    return sorted(path for path in found if path.suffix == artifact_cache.SUFFIX)


def weights_of(seed: int, **shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(s).astype(np.float32) for name, s in shapes.items()}


def classifier(seed: int = 0) -> bytes:
    """A net with a convolution, a pool, a product, symbols, and a size that only values tell."""
    fixed = weights_of(seed, w=(8, 3, 3, 3), b=(8,), v=(8, 40), c=(40,))
    return model(
        [
            node("Conv", ["x", "w", "b"], ["h"], pads=[1, 1, 1, 1]),
            node("Relu", ["h"], ["r"]),
            node("GlobalAveragePool", ["r"], ["p"]),
            node("Flatten", ["p"], ["f"]),
            node("Gemm", ["f", "v", "c"], ["y"]),
            node("NonZero", ["y"], ["i"]),
            node("Cast", ["i"], ["z"], to=TensorProto.FLOAT),
        ],
        [("x", ["N", 3, 8, 8])],
        [("y", ["N", 40]), ("z", [2, "K"])],
        fixed,
    )


def loop(seed: int = 0) -> bytes:
    """A loop whose body is native code with weights of its own."""
    body = h.make_graph(
        [
            h.make_node("MatMul", ["v", "bw"], ["t"]),
            h.make_node("Add", ["t", "outer"], ["u"]),
            h.make_node("Tanh", ["u"], ["v2"]),
            h.make_node("Identity", ["go"], ["go2"]),
        ],
        "body",
        [
            h.make_tensor_value_info("k", TensorProto.INT64, []),
            h.make_tensor_value_info("go", TensorProto.BOOL, []),
            h.make_tensor_value_info("v", TensorProto.FLOAT, ["N", 6]),
        ],
        [
            h.make_tensor_value_info("go2", TensorProto.BOOL, []),
            h.make_tensor_value_info("v2", TensorProto.FLOAT, ["N", 6]),
        ],
        [h.make_tensor("bw", TensorProto.FLOAT, [6, 6], weights_of(seed, a=(36,))["a"])],
    )
    fixed = {
        "times": np.array(3, np.int64),
        "yes": np.array(True),
        "outer": weights_of(seed + 1, a=(6,))["a"],
    }
    return model(
        [h.make_node("Loop", ["times", "yes", "x"], ["y"], body=body)],
        [("x", ["N", 6])],
        [("y", ["N", 6])],
        fixed,
    )


def gather() -> bytes:
    """A net that tells of an index out of range while it runs."""
    return model(
        [node("Gather", ["w", "x"], ["e"]), node("Exp", ["e"], ["y"])],
        [("x", ["N"], TensorProto.INT64)],
        [("y", ["N", 4])],
        weights_of(3, w=(10, 4)),
    )


NETS = {
    "classifier": (classifier(), {"x": normal(5, 3, 8, 8)}),
    "convnet": (convnet(), {"x": normal(3, 3, 8, 8)}),
    "mlp": (mlp(), {"x": normal(7, 8)}),
    "loop": (loop(), {"x": normal(4, 6)}),
    "gather": (gather(), {"x": np.array([0, 9, -10, 3])}),
}


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever parses, optimises, lowers or emits fails."""

    def fail(*given: object, **options: object) -> Any:
        raise AssertionError("nothing may be compiled")

    for place in (
        "engine.artifact_compiler.compile_model",
        "engine.loading.compile_model",
        "engine.cpu.device.WRITER",
        "engine.cpu.device.COMPILER",
        "engine.cpu.code_store.compile_many",
    ):
        monkeypatch.setattr(place, fail)
    yield


@pytest.mark.parametrize("name", NETS)
def test_a_mapped_model_computes_the_same_bits_and_compiles_nothing(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source, feeds = NETS[name]
    with engine.load(source, device="cpu") as fresh:
        want = fresh.run(feeds)
    with engine.load(source, device="cpu", cache_dir=tmp_path) as first:
        assert kept(tmp_path)
        request.getfixturevalue("no_compiler")
        with engine.load(source, device="cpu", cache_dir=tmp_path, threads=1) as again:
            for loaded in (first, again):
                got = loaded.run(feeds)
                assert got.keys() == want.keys()
                for key, value in want.items():
                    np.testing.assert_array_equal(got[key], value)
            assert (again.inputs, again.batch) == (fresh.inputs, fresh.batch)
            assert again.outputs == first.outputs  # sizes that only values tell have any name
            assert again.parameters == fresh.parameters and again.metadata == fresh.metadata
            assert again.memory().weights_bytes == fresh.memory().weights_bytes


@pytest.mark.parametrize("name", ["classifier", "loop"])
def test_closing_frees_weights_at_once(name: str, tmp_path: Path) -> None:
    """Not when the garbage collector comes by: large models would be held twice after a swap."""
    source, feeds = NETS[name]
    for cache in (None, tmp_path, tmp_path):
        loaded = engine.load(source, device="cpu", cache_dir=cache)
        loaded.run(feeds)
        plan = loaded._plan
        assert isinstance(plan, CpuPlan)
        weights = weakref.ref(plan._compiled)
        gc.collect()
        gc.disable()
        try:
            del plan
            loaded.close()
            assert weights() is None
        finally:
            gc.enable()


def test_profiles_and_graphs_of_mapped_models_name_the_nodes(tmp_path: Path) -> None:
    source, feeds = NETS["classifier"]
    fresh = engine.load(source, device="cpu")
    first = engine.load(source, device="cpu", cache_dir=tmp_path)
    again = engine.load(source, device="cpu", cache_dir=tmp_path)
    told = [
        {(n.name, n.op, n.kernel, n.flops, n.bytes) for n in each.profile(feeds, repeat=1).nodes}
        for each in (fresh, again)
    ]
    assert told[0] == told[1]
    assert [n.label for n in again.graph.nodes] == [n.label for n in fresh.graph.nodes]
    assert again.graph.types == first.graph.types


def test_large_fixed_values_are_held_packed_only(tmp_path: Path) -> None:
    fixed = weights_of(0, w=(64, 64))
    source = model(
        [node("MatMul", ["x", "w"], ["y"])], [("x", ["N", 64])], [("y", ["N", 64])], fixed
    )
    for cache in (None, tmp_path, tmp_path):
        with engine.load(source, device="cpu", cache_dir=cache) as loaded:
            assert not loaded.graph.initializers and not loaded.graph.constants
            assert "w" in loaded.graph.types
            x = normal(3, 64)
            np.testing.assert_allclose(
                loaded.run({"x": x})["y"], x @ fixed["w"], rtol=1e-4, atol=1e-4
            )
    with engine.load(source, device="reference") as loaded:
        assert loaded.graph.constant("w") is not None


def test_open_sizes_of_pictures_are_compiled_after_mapping(tmp_path: Path) -> None:
    source = model(
        [node("Conv", ["x", "w"], ["h"], pads=[1, 1, 1, 1]), node("Relu", ["h"], ["y"])],
        [("x", ["N", 3, "H", "W"])],
        [("y", None)],
        weights_of(5, w=(64, 3, 3, 3)),
    )
    x = normal(2, 3, 9, 6)
    with engine.load(source, device="reference") as reference:
        want = reference.run({"x": x})["y"]
    engine.load(source, device="cpu", cache_dir=tmp_path).close()
    with engine.load(source, device="cpu", cache_dir=tmp_path) as loaded:
        np.testing.assert_allclose(loaded.run({"x": x})["y"], want, rtol=1e-4, atol=1e-5)
        plan = loaded._plan
        assert isinstance(plan, SpecializingPlan) and plan.wait(300)
        np.testing.assert_allclose(loaded.run({"x": x})["y"], want, rtol=1e-4, atol=1e-5)
        special = plan._plan_for((9, 6))
        assert isinstance(special, CpuPlan)
        assert all(each.reason is None for each in special.coverage)


def test_faults_name_the_node_after_mapping(tmp_path: Path) -> None:
    engine.load(gather(), device="cpu", cache_dir=tmp_path).close()
    with (
        engine.load(gather(), device="cpu", cache_dir=tmp_path) as loaded,
        pytest.raises(RunFailed, match="Gather"),
    ):
        loaded.run({"x": np.array([1, 10])})


def test_a_net_trained_again_compiles_no_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_CACHE_DIR", str(tmp_path))
    engine.load(classifier(1), device="cpu", cache_dir=tmp_path).close()
    compiled: list[str] = []
    compile_now = parallel_compile.compile_kernel

    def counting(kernel: Any, name: str, target: Any) -> bytes:
        compiled.append(name)
        return compile_now(kernel, name, target)

    monkeypatch.setattr(parallel_compile, "compile_kernel", counting)
    CodeStore._loaded.clear()  # as a new process would find it
    with engine.load(classifier(2), device="cpu", cache_dir=tmp_path) as loaded:
        assert not compiled and len(kept(tmp_path)) == 2
        with engine.load(classifier(2), device="reference") as reference:
            x = normal(2, 3, 8, 8)
            want = reference.run({"x": x})["y"]
        np.testing.assert_allclose(loaded.run({"x": x})["y"], want, rtol=1e-4, atol=1e-5)
    (tmp_path / "kernels").rename(tmp_path / "moved")
    CodeStore._loaded.clear()
    engine.load(classifier(3), device="cpu", cache_dir=tmp_path).close()
    assert compiled  # the count does count


def test_photos_trained_again_needs_the_same_kernels() -> None:
    """The net that ships, with other weights: every kernel's key is one that is known."""
    first = onnx.load(PHOTOS)
    again = onnx.ModelProto.FromString(first.SerializeToString())
    rng = np.random.default_rng(0)
    for tensor in again.graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.dtype == np.float32 and value.size > 1:  # a variance stays one
            factor = rng.uniform(0.5, 1.5, value.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(value * factor, tensor.name))
    keys = []
    for net in (first, again):
        graph = compile_model(net.SerializeToString()).graph
        compiler = GraphCompiler(host_target(), REGISTRY, engine.Limits())
        compiler.rewrite(graph)
        keys.append({kernel_key(k, host_target()) for k in kernels_of(compiler.lowered)})
    assert first.SerializeToString() != again.SerializeToString()
    assert len(keys[0]) > 5 and keys[0] == keys[1]


def test_a_child_writes_what_the_parent_maps(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    source, feeds = NETS["classifier"]
    with engine.load(source, device="cpu") as fresh:
        want = fresh.run(feeds)["y"]
    request.getfixturevalue("no_compiler")
    for cache in (None, tmp_path, tmp_path):
        with engine.load(source, device="cpu", isolate=True, cache_dir=cache) as loaded:
            np.testing.assert_array_equal(loaded.run(feeds)["y"], want)


def test_a_process_that_maps_imports_neither_parser_nor_passes_nor_rules(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(mlp())
    engine.load(tmp_path / "m.onnx", device="cpu", cache_dir=tmp_path / "c").close()
    code = (
        "import sys, numpy, engine\n"
        "net = engine.load(sys.argv[1], device='cpu', cache_dir=sys.argv[2])\n"
        "net.run({'x': numpy.zeros((2, 8), numpy.float32)})\n"
        "names = ('onnx', 'google.protobuf', 'engine.cpu.compiling', 'engine.cpu.lower.context')\n"
        "print([name for name in names if name in sys.modules])"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "m.onnx"), str(tmp_path / "c")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ------------------------------------------------------------------------------ damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("native")
    engine.load(convnet(), device="cpu", cache_dir=folder).close()
    return kept(folder)[0].read_bytes()


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_changed_byte_is_noticed(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    damaged = bytearray(whole)
    damaged[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("damaged") / "a"
    path.write_bytes(damaged)
    with pytest.raises(InvalidModel):
        map_artifact(path)


@pytest.mark.parametrize(
    "damage", ["flip", "truncate", "empty", "others", "owner", "link", "foreign"]
)
def test_what_is_damaged_or_foreign_is_built_again(damage: str, tmp_path: Path) -> None:
    source, feeds = NETS["convnet"]
    with engine.load(source, device="cpu", cache_dir=tmp_path) as loaded:
        want = loaded.run(feeds)["y"]
    (entry,) = kept(tmp_path)
    content = entry.read_bytes()
    if damage == "flip":
        middle = len(content) // 2
        entry.write_bytes(content[:middle] + bytes([content[middle] ^ 8]) + content[middle + 1 :])
    elif damage in ("truncate", "empty"):
        entry.write_bytes(content[: len(content) // 3 if damage == "truncate" else 0])
    elif damage == "others":
        entry.chmod(0o666)
    elif damage == "owner":
        if os.geteuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(entry, 12345, -1)
    elif damage == "link":
        entry.rename(tmp_path / "elsewhere")
        entry.symlink_to(tmp_path / "elsewhere")
    else:  # a sound file of another model under this one's name
        engine.load(mlp(), device="cpu", cache_dir=tmp_path / "other").close()
        entry.write_bytes(kept(tmp_path / "other")[0].read_bytes().replace(b'"cpu"', b'"gpu"'))
    with engine.load(source, device="cpu", cache_dir=tmp_path) as loaded:
        np.testing.assert_array_equal(loaded.run(feeds)["y"], want)
    (entry,) = kept(tmp_path)
    plan = map_artifact(entry).plan
    assert plan is not None and plan.device == "cpu"
    assert not entry.is_symlink() and is_private(entry.stat())


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path: Path) -> None:
    folder = tmp_path / artifact_cache.FOLDER
    folder.mkdir()
    folder.chmod(0o777)
    for _ in range(2):
        with engine.load(mlp(), device="cpu", cache_dir=tmp_path) as loaded:
            assert loaded.run({"x": normal(2, 8)})["y"].shape[0] == 2
    assert not list(folder.iterdir())


@pytest.mark.parametrize("change", ["target", "version", "format"])
def test_what_another_compiler_made_is_another_entry(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.load(mlp(), device="cpu", cache_dir=tmp_path).close()
    (entry,) = kept(tmp_path)
    if change == "target":
        other = dataclasses.replace(host_target(), l2_bytes=12345)
        monkeypatch.setattr("engine.cpu.device.host_target", lambda: other)
    elif change == "version":
        monkeypatch.setattr(artifact_cache, "_versions", lambda: ["other"])
    else:
        monkeypatch.setattr(native_artifact, "FORMAT", -1)
    if change != "version":  # nor is it used when it is named by hand
        with pytest.raises(InvalidModel, match="another processor"):
            model_from_artifact(map_artifact(entry), "cpu")
    engine.load(mlp(), device="cpu", cache_dir=tmp_path).close()
    assert len(kept(tmp_path)) == 2


def test_an_artifact_of_a_device_runs_there_only(tmp_path: Path) -> None:
    engine.load(mlp(), device="cpu", cache_dir=tmp_path).close()
    artifact = map_artifact(kept(tmp_path)[0])
    with pytest.raises(InvalidModel, match="compile it again for 'reference'"):
        model_from_artifact(artifact, "reference")
    with model_from_artifact(artifact, "cpu") as loaded:
        assert np.isfinite(loaded.run({"x": normal(2, 8)})["y"]).all()


def test_a_full_disk_is_no_reason_not_to_serve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(writer: object, blob: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("engine.container.ContainerWriter.add", full)
    source, feeds = NETS["mlp"]
    with engine.load(source, device="cpu", cache_dir=tmp_path) as loaded:
        assert np.isfinite(loaded.run(feeds)["y"]).all()
    assert "cannot be kept" in caplog.text
    assert not list((tmp_path / artifact_cache.FOLDER).iterdir())


def test_many_writers_leave_one_sound_artifact(tmp_path: Path) -> None:
    source, feeds = NETS["mlp"]
    results: list[np.ndarray] = []

    def load() -> None:
        with engine.load(source, device="cpu", cache_dir=tmp_path) as loaded:
            results.append(loaded.run(feeds)["y"])

    threads = [threading.Thread(target=load) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6 and len(kept(tmp_path)) == 1
    for result in results:
        np.testing.assert_array_equal(result, results[0])


# ------------------------------------------------------------------------------ sources


def test_hashes_are_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = tmp_path / "m.onnx", tmp_path / "cache"
    source.write_bytes(mlp())
    monkeypatch.setattr("engine.artifact_source.SETTLED_NS", 1 << 60)  # too young
    engine.load(source, device="cpu", cache_dir=cache).close()
    assert not [p for p in (cache / artifact_cache.FOLDER).iterdir() if p.suffix == NOTE]
    monkeypatch.setattr("engine.artifact_source.SETTLED_NS", -1)
    hashed: list[Path] = []
    hash_now = artifact_cache.content_hash.__globals__["hash_model_file"]

    def counting(path: Path, most: int) -> str:
        hashed.append(path)
        return str(hash_now(path, most))

    monkeypatch.setattr("engine.artifact_source.hash_model_file", counting)
    for _ in range(3):
        engine.load(source, device="cpu", cache_dir=cache).close()
    assert len(hashed) == 1
    source.write_bytes(convnet())
    with engine.load(source, device="cpu", cache_dir=cache) as loaded:
        assert loaded.inputs[0].shape == ("N", 3, 8, 8)
    assert len(hashed) == 2 and len(kept(cache)) == 2


def test_notes_are_not_believed_when_damaged_or_anothers(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"x")
    state = FileState.of(tmp_path / "m")
    assert state is not None and FileState.of(tmp_path / "none") is None
    hashes = KnownHashes(tmp_path)
    hashes.add(state, "abc")
    assert hashes.find(state) == "abc"
    (note,) = tmp_path.glob(f"*{NOTE}")
    note.chmod(0o666)
    assert hashes.find(state) is None
    note.chmod(0o600)
    for text in ("", "{}", "[]", json.dumps({"path": state.path, "facts": 3, "sha256": "d"})):
        note.write_text(text)
        assert hashes.find(state) is None
    os.utime(tmp_path / "m", ns=(1, 1))
    hashes.add(state, "abc")
    changed = FileState.of(tmp_path / "m")
    assert changed is not None and hashes.find(changed) is None


# ------------------------------------------------------------------------------ the form


def test_everything_that_a_program_holds_is_written() -> None:
    """Whoever adds a field meets this: `program_json` has to carry it."""
    known = {
        Buffer: "name layout size_bytes place parent offset index",
        Step: "kernel writes reads numbers tasks node in_place",
        Fault: "buffer node message",
        Requirement: "left right node message",
        Program: "steps inputs outputs weights faults requirements",
        PlainLayout: "shape dtype",
        ImageLayout: "height width channels held pitch border dtype",
    }
    for kind, names in known.items():
        assert [f.name for f in dataclasses.fields(kind)] == names.split()


def test_sizes_survive_as_text() -> None:
    n, m = symbol("N"), symbol("M")
    for dim in (0, 7, n, 4 * n * m + 3, ceildiv(n, 16) * 64, dim_max(n, m) - 1, (n + 1) // 2):
        assert read_dim(json.loads(json.dumps(write_dim(dim)))) == dim


def test_a_stored_kernel_cannot_be_compiled() -> None:
    with pytest.raises(NotImplementedError, match="lies in the artifact"):
        StoredKernel("Conv", 0, "k").emit(None, "f", host_target())  # type: ignore[arg-type]
