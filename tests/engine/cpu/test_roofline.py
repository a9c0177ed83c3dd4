"""The machine's peak rates: plausible, remembered, and bounds that kernels cannot beat."""

from __future__ import annotations

import json

import numpy as np
import pytest

from engine.cpu import roofline as module
from engine.cpu.kernels.gauge import BLOCK_BYTES, SUMS, MultiplyAdd, ReadMemory
from engine.cpu.native import compile_kernel
from engine.cpu.roofline import Roofline, roofline
from engine.cpu.target import ISAS, host_target, target_for
from tests.engine.cpu.harness import run_kernel

ROOF = Roofline(4, flops_per_core=100e9, flops_all=340e9, bytes_per_core=10e9, bytes_all=25e9)


def test_bounds_between_one_core_and_all():
    assert [ROOF.flops(t) / 1e9 for t in (1, 2, 3, 4, 9)] == pytest.approx(
        [100, 180, 260, 340, 340]
    )
    assert [ROOF.bandwidth(t) / 1e9 for t in (1, 2, 3, 4, 9)] == [10, 20, 25, 25, 25]
    assert ROOF.seconds(1e9, 1e3) == pytest.approx(0.01)
    assert ROOF.seconds(1e3, 1e9) == pytest.approx(0.1)
    assert Roofline(1, 5.0, 5.0, 2.0, 2.0).flops(3) == 5.0


def test_measured_once_and_remembered(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROUNDS", 500)
    monkeypatch.setattr(module, "ARRAY_BYTES", 8 * BLOCK_BYTES)
    monkeypatch.setattr(module, "REPEATS", 2)
    known = roofline(tmp_path / "new")
    assert known.cores >= 1
    assert 1e8 < known.flops_per_core < 1e13 and 1e8 < known.bytes_per_core < 1e13

    def fail() -> Roofline:
        raise AssertionError("measured again")

    monkeypatch.setattr(module, "measure", fail)
    assert roofline(tmp_path / "new") == known


@pytest.mark.parametrize(
    "damage",
    ["", "{", "[]", '{"cores": 2}', "shared", "zero", "text"],
)
def test_a_damaged_memory_is_measured_again(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(module, "measure", lambda: ROOF)
    assert roofline(tmp_path) == ROOF
    (path,) = tmp_path.glob("roofline-*.json")
    good = json.loads(path.read_text())
    other = Roofline(4, 1.0, 2.0, 3.0, 4.0)
    if damage == "shared":
        path.chmod(0o666)
    elif damage == "zero":
        path.write_text(json.dumps(good | {"flops_all": 0}))
    elif damage == "text":
        path.write_text(json.dumps(good | {"flops_all": "many"}))
    else:
        path.write_text(damage)
    monkeypatch.setattr(module, "measure", lambda: other)
    assert roofline(tmp_path) == other


def test_a_machine_without_a_folder_measures(monkeypatch):
    monkeypatch.setattr(module, "measure", lambda: ROOF)
    monkeypatch.setattr(module, "default_folder", lambda: None)
    assert roofline() == ROOF


def test_the_gauges_compute_what_they_say():
    lanes = host_target().lanes
    start = np.random.default_rng(0).uniform(0.1, 0.9, 3 * lanes).astype(np.float32)
    (out,) = run_kernel(MultiplyAdd(), [start], numbers=[7], tasks=3, pieces=2)
    sums = [start + np.float32(k / SUMS) for k in range(SUMS)]
    for _ in range(7):
        sums = [value * np.float32(0.5) + start for value in sums]
    np.testing.assert_allclose(out, np.sum(sums, axis=0), rtol=1e-5)
    assert MultiplyAdd().flops(host_target(), 7) == 2 * SUMS * lanes * 7

    array = np.random.default_rng(1).integers(0, 8, 2 * BLOCK_BYTES // 4).astype(np.float32)
    totals = np.zeros(2 * lanes, np.float32)
    (out,) = run_kernel(ReadMemory(), [totals, array], tasks=2, pieces=2)
    want = array.reshape(2, -1, lanes).sum(axis=1)
    np.testing.assert_array_equal(out.reshape(2, lanes), want)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", [MultiplyAdd(), ReadMemory()])
def test_the_gauges_compile_for_every_target(isa, kernel):
    assert compile_kernel(kernel, "gauge", target_for(isa))
