"""Weights cut out before parsing: the same graph as parsing all of it, or nothing is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import engine
from engine.errors import EngineError
from engine.frontend import wire
from engine.frontend.onnx_importer import import_model
from engine.frontend.wire import FileSource, MemorySource, outline
from engine.ir.graph import Graph
from engine.limits import Limits
from engine.ops.registry import REGISTRY
from tests.engine.onnx_models import model, node


def source(sizes: list[int], *, typed: tuple[int, ...] = ()) -> bytes:
    """A chain of additions of rows of these sizes; some hold their elements in typed fields."""
    rng = np.random.default_rng(0)
    names = [f"w{number}" for number in range(len(sizes))]
    tensors = []
    for number, (name, size) in enumerate(zip(names, sizes, strict=True)):
        data = rng.standard_normal(size).astype(np.float32)
        if number in typed:
            tensors.append(helper.make_tensor(name, TensorProto.FLOAT, [size], data))
        else:
            tensors.append(numpy_helper.from_array(data, name))
    nodes = [node("Concat", ["x", *names], ["y"], axis=0)]
    built = onnx.ModelProto.FromString(model(nodes, [("x", ["N"])], [("y", ["M"])]))
    built.graph.initializer.extend(tensors)
    built.doc_string = "told at the end"
    return bytes(built.SerializeToString())


def read(data: bytes | Path) -> Graph:
    return import_model(data, limits=Limits(), registry=REGISTRY)


def uncut(data: bytes) -> Graph:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.frontend.onnx_importer.outline", lambda _: None)
        return read(data)


def assert_same(got: Graph, want: Graph) -> None:
    assert got.types.keys() == want.types.keys() and got.metadata == want.metadata
    assert [n.op for n in got.nodes] == [n.op for n in want.nodes]
    assert list(got.initializers) == list(want.initializers)
    for name, array in want.initializers.items():
        other = got.initializers[name]
        assert other.dtype == array.dtype and other.shape == array.shape
        assert other.tobytes() == array.tobytes()


EDGE = wire.LEAST_BYTES // 4


@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 7, EDGE - 40, EDGE - 1, EDGE, EDGE + 3]), max_size=5),
    typed=st.sets(st.integers(0, 4), max_size=2),
)
def test_a_cut_model_is_the_same_model(sizes: list[int], typed: set[int]) -> None:
    data = source(sizes, typed=tuple(typed))
    assert_same(read(data), uncut(data))
    large = [n for n, size in enumerate(sizes) if size >= EDGE and n not in typed]
    cut = outline(MemorySource(data))
    assert (cut is None) == (not large)
    if cut is not None:
        assert list(cut.raw) == large
        assert len(cut.rest) < len(data) - sum(4 * sizes[n] for n in large) + 64
        for array in cut.raw.values():
            assert array.ctypes.data % 16 == 0 and not array.flags.writeable


def test_files_are_cut_with_one_copy(tmp_path: Path) -> None:
    data = source([EDGE, 3, 5 * EDGE])
    (tmp_path / "m.onnx").write_bytes(data)
    assert_same(read(tmp_path / "m.onnx"), uncut(data))
    with engine.load(tmp_path / "m.onnx", device="reference") as loaded:
        (w0, w1, w2) = (loaded.graph.initializers[f"w{n}"] for n in range(3))
        x = np.zeros(2, np.float32)
        want = np.concatenate([x, w0, w1, w2])
        np.testing.assert_array_equal(loaded.run({"x": x})["y"], want)


@settings(deadline=None, max_examples=60)
@given(place=st.integers(0, 600), bits=st.integers(1, 255), end=st.none() | st.integers(1, 70_000))
def test_damaged_models_meet_the_same_end_as_uncut(place: int, bits: int, end: int | None) -> None:
    """In the outline every byte matters: all of it lies in the first and the last few hundred."""
    data = bytearray(source([2, EDGE + 1]))
    data[-place - 1 if place > 300 else place] ^= bits
    damaged = bytes(data[:end])

    def outcome(reading: object) -> object:
        try:
            return reading(damaged)  # type: ignore[operator]
        except EngineError as error:
            return type(error)

    got, want = outcome(read), outcome(uncut)
    if isinstance(want, Graph):
        assert isinstance(got, Graph)
        assert_same(got, want)
    else:
        assert got is want


def test_graphs_in_two_parts_are_merged_by_the_parser() -> None:
    data = source([EDGE])
    extra = onnx.ModelProto()
    extra.graph.name = "other"
    assert outline(MemorySource(data + extra.SerializeToString())) is None
    assert read(data + extra.SerializeToString()).name == "other"


def test_a_file_that_shrinks_while_it_is_cut_is_left_to_the_parser(tmp_path: Path) -> None:
    data = source([EDGE, EDGE])
    (tmp_path / "m").write_bytes(data[: len(data) // 2])
    with (tmp_path / "m").open("rb") as file:
        assert outline(FileSource(file.fileno(), len(data))) is None


def test_endless_numbers_and_tiny_fields_are_left_to_the_parser(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert outline(MemorySource(b"\xff" * (wire.LEAST_BYTES + 10))) is None
    monkeypatch.setattr(wire, "MAX_FIELDS", 5)
    assert outline(MemorySource(source([EDGE]))) is None
