"""Loading one version with the real engine: compile, warm up, golden check."""

from pathlib import Path

import numpy as np
import pytest

from server.errors import LoadCrashed, LoadFailed
from server.model_config import GoldenConfig
from server.repository import golden, loader, warmup
from server.repository.loader import LoadedVersion, LoadOptions, load_version
from server.repository.manifest import write_manifest
from server.repository.scan import scan_repository
from tests.server.repository.models import WIDTH, affine, write_sample, write_version

IN_PLACE = LoadOptions(isolate=False)


def load(root: Path, options: LoadOptions = IN_PLACE) -> tuple[LoadedVersion, list[str]]:
    model = scan_repository(root)["m"]
    stages: list[str] = []
    return load_version(model, model.versions["1"], options, stages.append), stages


def refused(root: Path, message: str, options: LoadOptions = IN_PLACE) -> LoadFailed:
    with pytest.raises(LoadFailed, match=message) as caught:
        load(root, options)
    assert "model 'm' version '1' cannot be loaded: " in caught.value.message
    return caught.value


@pytest.mark.parametrize("isolate", [False, True])
def test_a_bare_graph_is_all_it_needs(tmp_path: Path, isolate: bool):
    write_version(tmp_path, "m", "1", affine(3.0))
    loaded, stages = load(tmp_path, LoadOptions(isolate=isolate))
    assert stages == ["verify", "configuration", "compile", "warm up", "golden check"]
    assert list(loaded.seconds) == stages
    with loaded.engine_model as model:
        assert model.run({"x": np.ones((2, WIDTH), np.float32)})["y"].tolist() == [[3.0] * 4] * 2
        assert loader.memory_of(model)["weights_bytes"] > 0


def test_golden_samples_that_hold(tmp_path: Path):
    folder = write_version(tmp_path, "m", "1", affine(3.0, 1.0))
    write_sample(folder, 3.0, 1.0)
    load(tmp_path)[0].close()


def test_golden_samples_that_do_not_hold_fail_the_load(tmp_path: Path):
    folder = write_version(tmp_path, "m", "1", affine(3.0))
    write_sample(folder, 3.01)
    error = refused(tmp_path, r"samples/0\.npz: output 'y': 12 of 12 values .* expected .* got")
    assert error.extra["reason"].startswith("samples/0.npz")
    (tmp_path / "m" / "model.toml").write_text("[golden]\nrtol = 0.1\n")
    load(tmp_path)[0].close()


def test_samples_of_inner_values_keep_them(tmp_path: Path):
    folder = write_version(tmp_path, "m", "1", affine(3.0, 1.0))
    (folder / "samples").mkdir()
    x = np.ones((1, WIDTH), np.float32)
    np.savez(folder / "samples" / "0.npz", **{"input:x": x, "output:scaled": x * 3})
    loaded, _ = load(tmp_path)
    with loaded.engine_model as model:
        assert set(model.run({"x": x}, ["scaled", "y"])) == {"scaled", "y"}
        assert set(model.kept) == {"y", "scaled"}


def test_an_embedding_of_an_inner_value_is_kept(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(3.0, 1.0))
    (tmp_path / "m" / "model.toml").write_text('[embedding]\noutput = "scaled"\n')
    loaded, _ = load(tmp_path)
    with loaded.engine_model as model:
        assert set(model.kept) == {"y", "scaled"}
    (tmp_path / "m" / "model.toml").write_text('[embedding]\noutput = "pool"\n')
    refused(tmp_path, "pool")


@pytest.mark.parametrize("isolate", [False, True])
def test_a_broken_graph_is_named(tmp_path: Path, isolate: bool):
    content = affine(3.0)
    write_version(tmp_path, "m", "1", content[: len(content) // 2])
    refused(tmp_path, "model 'm' version '1'", LoadOptions(isolate=isolate))


def test_two_graphs_are_one_too_many(tmp_path: Path):
    folder = write_version(tmp_path, "m", "1", affine(3.0))
    (folder / "model.onnx").rename(folder / "a.onnx")
    (folder / "b.onnx").write_bytes(affine(4.0))
    refused(tmp_path, r"several \.onnx files or none; expected model\.onnx")


def test_hashes_are_compared_before_anything_is_opened(tmp_path: Path):
    folder = write_version(tmp_path, "m", "1", affine(3.0))
    write_manifest(folder)
    content = bytearray((folder / "model.onnx").read_bytes())
    content[-1] ^= 1
    (folder / "model.onnx").write_bytes(content)
    refused(tmp_path, r"incomplete: model\.onnx has sha256")


def test_an_unknown_device_and_wrong_settings_are_told(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(3.0))
    refused(tmp_path, "quantum", LoadOptions(device="quantum", isolate=False))
    (tmp_path / "m" / "1" / "config.json").write_text("{")
    refused(tmp_path, r"config\.json: not valid JSON")


def test_files_that_change_while_they_are_read_are_not_served(tmp_path: Path):
    folder = write_version(tmp_path, "m", "1", affine(3.0))
    model = scan_repository(tmp_path)["m"]

    def progress(stage: str) -> None:
        if stage == "golden check":
            (folder / "model.onnx").write_bytes(affine(4.0))

    with pytest.raises(LoadFailed, match="changed while they were being loaded"):
        load_version(model, model.versions["1"], IN_PLACE, progress)


def test_a_fault_of_ours_is_not_the_models(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(3.0))
    model = scan_repository(tmp_path)["m"]

    def progress(stage: str) -> None:
        raise RuntimeError("broken progress bar")

    with pytest.raises(LoadCrashed, match="RuntimeError: broken progress bar"):
        load_version(model, model.versions["1"], IN_PLACE, progress)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": np.ones(4)}, r"expected arrays named 'input:<name>' .* got \['x'\]"),
        ({"input:x": np.ones((1, 4), "f"), "output:z": np.ones(1)}, "z"),
        ({"input:x": np.ones((1, 3), "f"), "output:y": np.ones(1)}, "x"),
        ({"input:x": np.ones((1, 4), "f"), "output:y": np.ones((1, 5))}, "expected shape"),
        ({"input:x": np.array([{}], object), "output:y": np.ones(1)}, "cannot be read"),
    ],
)
def test_samples_that_cannot_be_used_say_why(tmp_path: Path, arrays: dict, message: str):
    folder = write_version(tmp_path, "m", "1", affine(3.0))
    (folder / "samples").mkdir()
    np.savez(folder / "samples" / "0.npz", **arrays)
    refused(tmp_path, message)


def test_damaged_and_huge_samples_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = write_version(tmp_path, "m", "1", affine(3.0))
    write_sample(folder, 3.0)
    monkeypatch.setattr(golden, "MAX_SAMPLE_BYTES", 10)
    refused(tmp_path, "bytes unpacked, the limit is 10")
    (folder / "samples" / "0.npz").write_bytes(b"not a zip file")
    refused(tmp_path, r"samples/0\.npz cannot be read")


def test_not_a_number_agrees_with_itself_and_text_must_be_equal():
    def check(expected: np.ndarray, got: np.ndarray) -> None:
        sample = golden.Sample("s", {"x": expected}, {"y": expected})
        golden.check_samples([sample], lambda feeds, fetches: {"y": got}, GoldenConfig())

    nan = np.array([1.0, np.nan, np.inf])
    check(nan, nan.copy())
    check(np.array(["a"]), np.array(["a"], object))
    with pytest.raises(golden.GoldenMismatch, match="1 of 3 values"):
        check(nan, np.array([1.0, 0.0, np.inf]))
    with pytest.raises(golden.GoldenMismatch, match="expected a, got b"):
        check(np.array(["a"]), np.array(["b"], object))


class Spec:
    def __init__(self, name: str, dtype: str, shape: tuple | None) -> None:
        self.name, self.dtype, self.shape = name, dtype, shape


def test_warm_up_feeds():
    specs = [Spec("x", "float32", ("N", 3)), Spec("s", "float16", ())]
    feeds = warmup.zeros(specs, {"x"}, 5)
    assert feeds is not None
    assert feeds["x"].shape == (5, 3) and feeds["s"].dtype == np.float16
    assert warmup.zeros([Spec("x", "float32", ("N", "L"))], {"x"}, 5) is None
    assert warmup.zeros([Spec("x", "int64", (3,))], set(), 5) is None
    assert warmup.zeros([Spec("x", "float32", None)], set(), 5) is None
    assert warmup.zeros([Spec("x", "float32", (1 << 40, 1 << 40))], set(), 5) is None
    sample = {"x": np.arange(6.0).reshape(3, 2), "k": np.array(7)}
    rows = warmup.with_rows(sample, {"x"}, 7)
    assert rows["x"].shape == (7, 2) and rows["x"][3].tolist() == [0.0, 1.0]
    assert rows["k"] == 7


def test_a_batch_that_does_not_fit_is_not_warmed_up(tmp_path: Path):
    write_version(tmp_path, "m", "1", affine(3.0))
    (tmp_path / "m" / "model.toml").write_text("[batching]\nmax_batch_size = 65536\n")
    loaded, _ = load(tmp_path)
    runs: list[int] = []

    class Small:
        name, batch, inputs = "m", loaded.engine_model.batch, loaded.engine_model.inputs

        def run(self, feeds: dict) -> None:
            runs.append(len(feeds["x"]))
            if len(feeds["x"]) > limit:
                raise loader.engine.ResourceLimit("run", "much", "little")

    limit = 10
    loader._warm(Small(), loaded.config, [])
    assert runs == [1, 65536]
    limit = 0
    with pytest.raises(loader.engine.ResourceLimit):
        loader._warm(Small(), loaded.config, [])
    loaded.close()
