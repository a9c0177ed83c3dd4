"""Rows of float32 that lie apart: whole pages between them would cost products their cache."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

import engine
from engine.cpu.kernels.gemm import Gemm
from engine.cpu.lower import half_rows
from engine.cpu.plan import CpuPlan
from tests.engine.onnx_models import model

PAGE = 1024  # numbers


def numbers(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def chain(inner: int, *, reader: str = "", lead: tuple[str | int, ...] = ("N", "L")) -> bytes:
    """Two products with a Relu between; another operator may read what is between, too."""
    make = helper.make_node
    nodes = [
        make("MatMul", ["x", "w"], ["a"]),
        make("Relu", ["a"], ["b"]),
        make("MatMul", ["b", "v"], ["y"]),
    ]
    outputs: list[tuple[str, None]] = [("y", None)]
    if reader:
        nodes.append(make(reader, ["b"], ["z"]))
        outputs.append(("z", None))
    fixed = {"w": numbers(0, 24, inner) / np.float32(5), "v": numbers(1, inner, 8)}
    return model(nodes, [("x", (*lead, 24))], outputs, fixed)


def gemms(loaded: engine.Model) -> list[Gemm]:
    plan = loaded._plan
    assert isinstance(plan, CpuPlan)
    (region,) = plan._regions
    return [s.kernel for s in region.program.steps if isinstance(s.kernel, Gemm)]


def agree(source: bytes, x: np.ndarray) -> dict[str, np.ndarray]:
    got = engine.load(source, device="cpu", threads=2).run({"x": x})
    for name, want in engine.load(source, device="reference").run({"x": x}).items():
        np.testing.assert_allclose(got[name], want, rtol=1e-4, atol=1e-3)
    return got


@pytest.mark.parametrize(("inner", "room"), [(PAGE, True), (2 * PAGE, True), (PAGE - 16, False)])
def test_pitches(inner: int, room: bool) -> None:
    source = chain(inner)
    first, second = gemms(engine.load(source, device="cpu"))
    assert first.y_pitch == second.x_pitch
    assert (first.y_pitch > inner) == room and first.y_pitch * 4 % 4096
    x = numbers(2, 2, 9, 24)
    whole = agree(source, x)["y"]
    alone = engine.load(source, device="cpu").run({"x": x[1:, 3:4]})["y"]
    assert alone.tobytes() == np.ascontiguousarray(whole[1:, 3:4]).tobytes()


def test_what_others_read_lies_densely() -> None:
    source = chain(PAGE, reader="Softmax")
    first, second = gemms(engine.load(source, device="cpu"))
    assert (first.y_pitch, second.x_pitch) == (PAGE, PAGE)
    agree(source, numbers(3, 2, 3, 24))


@pytest.mark.parametrize("lead", [("N",), ("N", "L"), (2, "L", 3)])
def test_rows_apart_are_made_dense_for_who_wants_them_so(
    monkeypatch: pytest.MonkeyPatch, lead: tuple[str | int, ...]
) -> None:
    def wants_room(ctx: object, name: str, columns: int) -> bool:
        return columns == PAGE

    monkeypatch.setattr(half_rows, "_wants_room", wants_room)
    source = chain(PAGE, reader="Softmax", lead=lead)
    first, second = gemms(engine.load(source, device="cpu"))
    assert first.y_pitch > PAGE and second.x_pitch > PAGE
    agree(source, numbers(4, *(2, 5, 3)[: len(lead)], 24))
