"""The benchmark of the CPU compiler: statistics, results files, and a row from end to end."""

from __future__ import annotations

import ctypes
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import engine
from benchmarks.common.models import dense_net
from benchmarks.engine import photos, share, timing
from benchmarks.engine.__main__ import describe, main, read_arguments
from benchmarks.engine.agreement import Array, compare
from benchmarks.engine.files import TORCH_PYTHON, ensure_files
from benchmarks.engine.fresh import measure as measure_fresh
from benchmarks.engine.intervals import geometric_mean, median_interval, median_ratio
from benchmarks.engine.networks.table import NETWORKS
from benchmarks.engine.peak import SUMS, make_peak
from benchmarks.engine.priority import realtime
from benchmarks.engine.report import figure_targets
from benchmarks.engine.rows import Key, Row, holds, merged, row_from_dict
from benchmarks.engine.runner import Runner
from benchmarks.engine.selection import Selection, all_keys, oldest_first, selected
from benchmarks.engine.settings import Settings
from benchmarks.engine.steps import output_steps, steps_of_file, within_one_step
from benchmarks.engine.store import Store

MACHINE = {"cpu": "a CPU", "cores": 2, "packages": {"numpy": "2"}, "commit": "abc"}


# ---------------------------------------------------------------------- statistics


@pytest.mark.parametrize(("count", "rank"), [(1, 1), (5, 1), (6, 1), (9, 2), (15, 4), (25, 8)])
def test_interval_runs_between_order_statistics(count: int, rank: int) -> None:
    """Ranks as tabulated for the sign test at 95%."""
    values = [float(v) for v in np.random.default_rng(count).permutation(count)]
    assert median_interval(values) == (rank - 1, count - rank)


def test_interval_holds_the_median_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).exponential(size=(2000, 15))
    hits = [low <= math.log(2) <= high for low, high in map(median_interval, draws.tolist())]
    assert 0.95 <= np.mean(hits) <= 0.98  # the exact value for 15 is 0.965


def test_statistics_of_little() -> None:
    with pytest.raises(ValueError, match="at least one"):
        median_interval([])
    assert math.isnan(geometric_mean([]))
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)
    assert median_ratio([2.0, 9.0, 4.0], [1.0, 3.0, 1.0]) == (3.0, 2.0, 4.0)


# ---------------------------------------------------------------------- timing


class Clock:
    """Time that only passes when somebody works."""

    def __init__(self) -> None:
        self.now, self.waited, self.order = 0.0, 0.0, list[str]()

    def work(self, name: str, seconds: float, waits: Mapping[int, float]) -> Callable[[], None]:
        calls = iter(range(10**6))

        def call() -> None:
            self.order.append(name)
            waited = waits.get(next(calls), 0.0)
            self.now += seconds + waited
            self.waited += waited

        return call

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(
        "benchmarks.engine.timing.time",
        SimpleNamespace(perf_counter=lambda: made.now, sleep=made.sleep),
    )
    monkeypatch.setattr(timing, "waited_s", lambda: made.waited)
    return made


def contender(
    clock: Clock, name: str, seconds: float, group: str, waits: Mapping[int, float] | None = None
) -> timing.Contender:
    return timing.Contender(name, clock.work(name, seconds, waits or {}), group)


def test_contenders_take_turns_and_slow_ones_of_a_group_drop_out(clock: Clock) -> None:
    sides = [
        contender(clock, "ours", 1.0, "ours"),
        contender(clock, "spin", 2.0, "ort"),
        contender(clock, "sleep", 4.0, "ort"),
    ]
    times = timing.alternate(sides, 7, 0.01)
    assert times.seconds == {"ours": [1.0] * 7, "spin": [2.0] * 7}
    groups = {side.label: side.group for side in sides}
    assert timing.fastest(times, groups, "ort") == "spin"
    rounds = clock.order[6:]  # two calls each found out how long they take
    assert rounds[:9] == ["ours", "spin", "sleep", "spin", "sleep", "ours", "sleep", "ours", "spin"]
    assert "sleep" not in rounds[15:]


def test_disturbed_rounds_are_run_again(clock: Clock) -> None:
    """Calls 0 and 1 size the burst, so 2 to 4 are the first three rounds."""
    sides = [
        contender(clock, "ours", 1.0, "ours", {3: 5.0}),
        contender(clock, "ort", 2.0, "ort", {4: 0.5}),
    ]
    times = timing.alternate(sides, 4, 0.0)
    assert times.seconds == {"ours": [1.0] * 4, "ort": [2.0] * 4}
    assert times.waited == 0.0
    assert clock.order.count("ours") == 2 + 6


def test_on_a_busy_machine_the_calmest_rounds_count(clock: Clock) -> None:
    waits = {n: 0.1 * (n % 5 + 1) for n in range(100)}
    times = timing.alternate([contender(clock, "ours", 1.0, "ours", waits)], 4, 0.0)
    assert len(times.seconds["ours"]) == 4
    assert clock.order.count("ours") == 2 + 4 * timing.PATIENCE
    # Eight rounds wait 0.3 0.4 0.5 0.1 0.2 0.3 0.4 0.5.
    assert sorted(times.seconds["ours"]) == pytest.approx([1.1, 1.2, 1.3, 1.3])


def test_short_calls_are_timed_many_at_a_time(clock: Clock) -> None:
    assert timing.calls_for(clock.work("x", 0.001, {})) == round(timing.BURST_S / 0.001)
    assert timing.calls_for(clock.work("x", 1e-9, {})) == timing.MOST_CALLS
    assert timing.calls_for(clock.work("x", 3.0, {})) == 1


# ---------------------------------------------------------------------- agreement


def test_agreement_is_the_worst_output() -> None:
    expected: dict[str, Array] = {
        "a": np.array([1.0, -4.0], np.float32),
        "k": np.array([1, 2, 3, 4]),
    }
    got: dict[str, Array] = {"a": np.array([1.0, -3.0], np.float32), "k": np.array([1, 2, 3, 5])}
    found = compare(got, expected)
    assert found.error == pytest.approx(0.25)
    assert found.unequal == 0.25
    assert found.cosine == pytest.approx(13 / math.sqrt(17 * 10))


def test_rows_that_outputs_name_may_come_in_another_order() -> None:
    def outputs(*rows: int) -> dict[str, Array]:
        values = np.array(rows, np.float32)
        return {"k": np.array([[r, r + 1] for r in rows]).reshape(-1, 2), "v": values * 10}

    found = compare(outputs(3, 1, 2), outputs(1, 2, 3), "k")
    assert (found.error, found.unequal) == (0.0, 0.0)
    found = compare(outputs(3, 1, 2), outputs(1, 2, 3, 4), "k")
    assert (found.error, found.unequal) == (0.0, 0.25)
    assert compare(outputs(1), outputs(2), "k").unequal == 1.0
    assert compare(outputs(), outputs(), "k").unequal == 0.0


@pytest.mark.parametrize(
    ("got", "message"),
    [
        ({}, "expected"),
        ({"a": np.zeros((2, 1), np.float32)}, r"float32\[2, 1\]; expected float32\[2\]"),
        ({"a": np.zeros(2)}, "float64"),
        ({"a": np.array([np.nan, 0], np.float32)}, "not finite"),
    ],
)
def test_outputs_that_cannot_be_compared(got: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(got, {"a": np.zeros(2, np.float32)})


def test_agreement_of_nothing_and_of_zeros() -> None:
    empty: dict[str, Array] = {"a": np.zeros((0, 4), np.float32), "k": np.zeros(0, np.int64)}
    assert compare(empty, empty).error == 0.0
    zeros = {"a": np.zeros(3, np.float32)}
    assert compare(zeros, zeros).cosine == 1.0
    assert compare({"a": np.ones(3, np.float32)}, zeros).error == 1.0


def quantized_model(scale: float) -> onnx.ModelProto:
    """`x` quantized and back, then a Relu: the output's step is the scale of `x`."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "other", "zero"], ["v"]),
        helper.make_node("Mul", ["v", "d"], ["m"]),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    values = [
        helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]),
        helper.make_tensor("other", TensorProto.FLOAT, [], [9.0]),
        helper.make_tensor("zero", TensorProto.UINT8, [], [0]),
        helper.make_tensor("w", TensorProto.UINT8, [], [1]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N"]) for n in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], values)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_steps_are_those_of_the_nearest_quantized_activation(tmp_path: Path) -> None:
    model = quantized_model(0.5)
    assert output_steps(model) == {"y": 0.5}
    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    expected = {"y": np.array([0.0, 1.0, 2.0, 3.0], np.float32)}
    got = {"y": np.array([0.5, 1.0, 1.5, 4.0], np.float32)}
    assert within_one_step(steps_of_file(path), got, expected) == 0.75


def test_a_plain_model_has_no_steps() -> None:
    with pytest.raises(ValueError, match=r"logits.*quantized"):
        output_steps(onnx.load_model_from_string(dense_net((4, 2))))


# ---------------------------------------------------------------------- rows and results


def row(ratio: float, **key: object) -> Row:
    key = {"figure": 1, "network": "resnet50", **key}
    bounds = {"ratio": (">=", 1.0)}
    return Row(Key(**key), {"ratio": ratio}, bounds, commit="abc", when="now")  # type: ignore[arg-type]


def test_rows_survive_the_file_and_tell_whether_they_are_reached() -> None:
    for one in (row(1.0), row(0.99), Row(Key(1, "mlp"), failed="no", bounds={"ratio": (">=", 1)})):
        assert row_from_dict(json.loads(json.dumps(one.as_dict()))) == one
    assert row(1.0).reached
    assert not row(0.99).reached
    assert not Row(Key(1, "mlp"), failed="no").reached
    assert not Row(Key(1, "mlp"), bounds={"ratio": (">=", 1)}).reached  # nothing was measured
    assert not holds(float("nan"), "<=", 1.0)
    with pytest.raises(ValueError, match="relation"):
        holds(1.0, "<", 2.0)


def test_new_rows_replace_old_ones_of_their_key() -> None:
    old = [row(1.0), row(2.0, batch=8)]
    assert merged(old, [row(3.0, batch=8), row(4.0, threads=2)]) == [
        row(1.0),
        row(4.0, threads=2),
        row(3.0, batch=8),
    ]


def test_store_is_complete_after_every_row(tmp_path: Path) -> None:
    path = tmp_path / "results" / "engine.json"
    store = Store(path, MACHINE)
    store.add([row(1.5)])
    store.add([Row(Key(1, "mlp"), failed="RuntimeError: a | b\nc")])
    page = path.with_suffix(".md").read_text()
    assert "| ResNet-50 |  | 1 | 1 |" in page
    assert "| 1.50 |" in page
    assert "reached" in page
    assert "**none**: RuntimeError: a / b c" in page
    again = Store(path, MACHINE)
    again.add([row(0.5)])
    document = json.loads(path.read_text())
    assert [one["values"] for one in document["details"]] == [{}, {"ratio": 0.5}]
    assert "**short**: ratio >= 1" in path.with_suffix(".md").read_text()
    assert not list(path.parent.glob("*.part"))


def test_rows_of_another_machine_are_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "engine.json"
    Store(path, MACHINE).add([row(1.5)])
    assert Store(path, {**MACHINE, "commit": "def"}).rows
    assert not Store(path, {**MACHINE, "cpu": "another"}).rows


def test_figures_as_a_whole() -> None:
    targets = {t.what: t for t in figure_targets([row(1.0), row(1.69, batch=8)])}
    mean = targets["fp32: time of ONNX Runtime over ours, geometric mean"]
    assert (mean.measured, mean.reached) == (1.3, True)
    [share] = [t for name, t in targets.items() if "Figure 1" in name]
    assert share.reached
    assert not any("int8" in name for name in targets)


# ---------------------------------------------------------------------- choosing


def test_every_row_has_its_own_key_and_a_network() -> None:
    keys = list(all_keys())
    assert len(set(keys)) == len(keys)
    assert {key.network for key in keys if key.figure == 1} == set(NETWORKS)
    assert {key.network for key in keys} == {*NETWORKS, photos.NAME}
    assert {key.figure for key in keys} == {1, 2, 3, 4, 5, 6}


def test_selection_narrows() -> None:
    chosen = selected(Selection(figures=(1,), networks=("bert_base",), threads=(2,), lengths=(16,)))
    assert chosen == [
        Key(1, "bert_base", 16, 1, 2, "fp32"),
        Key(1, "bert_base", 16, 8, 2, "fp32"),
    ]
    assert not selected(Selection(networks=("mlp",), precisions=("int8",)))


def test_rows_that_wait_longest_come_first_and_groups_stay_together() -> None:
    keys = [Key(1, name, batch=batch) for name in ("mlp", "unet", "yolo") for batch in (1, 8)]
    times = {key: "2026-01-0" + str(number) for number, key in enumerate(keys, 1)}
    times[Key(1, "unet", batch=8)] = "2025-01-01"
    del times[Key(1, "yolo", batch=1)]
    assert [key.network for key in oldest_first(keys, times)] == (
        ["yolo", "yolo", "unet", "unet", "mlp", "mlp"]
    )


@pytest.mark.parametrize("wrong", [["--network", "resnet"], ["--threads", "x"]])
def test_wrong_options_say_what_is_known(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        read_arguments(wrong)
    assert wrong[0] in capsys.readouterr().err


def test_nothing_selected_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--network", "mlp", "--figure", "3"]) == 2
    assert "no row fits" in capsys.readouterr().err


@pytest.mark.parametrize("name", NETWORKS)
def test_feeds_are_the_same_for_a_seed_and_have_the_batch_size(name: str) -> None:
    network = NETWORKS[name]
    length = network.lengths[-1]
    once, twice = network.feeds(3, length, 1), network.feeds(3, length, 1)
    for key, array in once.items():
        assert array.shape[0] == 3
        np.testing.assert_array_equal(array, twice[key])


def test_missing_files_name_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(TORCH_PYTHON, raising=False)
    with pytest.raises(RuntimeError, match=f"mlp.*{TORCH_PYTHON}"):
        ensure_files(tmp_path, ["mlp"], [])
    (tmp_path / "mlp.onnx").write_bytes(dense_net())
    ensure_files(tmp_path, ["mlp"], ["mlp"])  # it has no int8 twin


# ---------------------------------------------------------------------- peak


@pytest.mark.parametrize("width", [4, 8])
def test_the_loop_of_the_peak_computes_its_sums(width: int) -> None:
    peak = make_peak(width)
    out = (ctypes.c_float * (width * SUMS))(*([0.5] * width * SUMS))
    peak.call(1000, out)
    expected = np.repeat(np.arange(SUMS), width) + 1000 * 0.25
    np.testing.assert_array_equal(np.array(out), expected.astype(np.float32))


def convolution_model() -> bytes:
    """A 3 x 3 convolution of a size at which Winograd wins."""
    weights = np.random.default_rng(0).standard_normal((64, 64, 3, 3), np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    kinds = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 64, 56, 56]) for name in "xy"
    ]
    values = [onnx.numpy_helper.from_array(weights, "w")]
    graph = helper.make_graph([node], "g", kinds[:1], kinds[1:], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def test_the_share_of_the_peak_is_measured_without_winograd(tmp_path: Path) -> None:
    (tmp_path / "resnet50.onnx").write_bytes(convolution_model())
    key, settings = Key(4, "resnet50"), Settings(models=str(tmp_path))
    feeds = {"x": np.ones((1, 64, 56, 56), np.float32)}
    with share.opened_without_winograd(key, settings) as model:
        assert "Winograd" not in str(model.profile(feeds, repeat=1))
    with engine.load(tmp_path / "resnet50.onnx", threads=1) as model:
        kernels = {node.kernel for node in model.profile(feeds, repeat=1).nodes}
    if not any("Winograd" in kernel for kernel in kernels):
        pytest.skip(f"Winograd does not win here, so that nothing was left out: {kernels}")


# ---------------------------------------------------------------------- a row from end to end


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    (folder / "mlp.onnx").write_bytes(dense_net())
    (folder / "minilm.onnx").write_bytes(b"not a model")
    return folder


def test_rows_are_measured_and_failures_are_rows(models: Path, tmp_path: Path) -> None:
    """The MLP of the table has the inputs and outputs of this one; MiniLM's file is broken."""
    arguments = ["--device", "reference", "--pairs", "2", "--threads", "1", "--batch", "1"]
    arguments += ["--network", "mlp,minilm", "--models", str(models)]
    into = tmp_path / "engine.json"
    assert main([*arguments, "--into", str(into), "--figure", "1,2"]) in (0, 1)
    broken, bf16_broken, fine, bf16 = sorted(
        map(row_from_dict, json.loads(into.read_text())["details"]),
        key=lambda one: (one.key.network, one.key.figure),
    )
    assert broken.failed.startswith("InvalidModel")
    assert bf16_broken.failed
    assert fine.values["error"] < 1e-5
    assert fine.values["ratio"] == pytest.approx(
        fine.values["ort_ms"] / fine.values["ours_ms"], rel=0.9
    )
    assert fine.values["low"] <= fine.values["ratio"] <= fine.values["high"]
    assert "bf16" in bf16.failed
    assert "figure 1 mlp t=1 b=1 fp32" in describe(fine)


def test_a_worker_that_dies_costs_one_row(models: Path) -> None:
    settings = Settings(pairs=1, device="reference", models=str(models))
    with Runner(settings) as runner:
        process = runner._start()
        process.kill()
        lost = runner.measure(Key(1, "mlp"))
        assert "SIGKILL" in lost.failed
        assert not runner.measure(Key(1, "mlp")).failed


def test_a_worker_that_hangs_is_replaced(models: Path) -> None:
    with Runner(Settings(models=str(models)), limit_s=0.0) as runner:
        assert "more than 0 s" in runner.measure(Key(1, "mlp")).failed


def test_real_time_priority_ends_with_the_measurement() -> None:
    before = os.sched_getscheduler(0)
    with realtime(False):
        assert os.sched_getscheduler(0) == before
    try:
        with realtime(True):
            assert os.sched_getscheduler(0) == os.SCHED_RR
    except RuntimeError as error:
        assert "CAP_SYS_NICE" in str(error)  # what it takes, where it is not permitted
    assert os.sched_getscheduler(0) == before


def test_agreement_on_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(3).standard_normal((5, 3, 32, 32), np.float32)
    monkeypatch.setattr(photos, "pictures", lambda: (images, np.zeros(5, np.int64)))
    key = Key(2, photos.NAME, batch=2, precision="fp32")
    found = photos.measure(key, Settings(device="reference"))
    assert (found["top1"], found["pictures"]) == (1.0, 5)
    assert found["accuracy"] == found["ort_accuracy"]


def test_pictures_need_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(photos.DATA_VARIABLE, raising=False)
    with pytest.raises(RuntimeError, match=photos.DATA_VARIABLE):
        photos.pictures()


def test_a_fresh_process_tells_its_memory(models: Path) -> None:
    found = measure_fresh("reference", models / "mlp.onnx", 1, None)
    assert found["peak_mb"] >= found["steady_mb"] > 10
    assert found["load_s"] > 0
