"""Comparing quantized networks segment by segment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from benchmarks.common.models import dense_net
from benchmarks.engine.rows import Key, Row, compared_anew
from benchmarks.engine.segments import (
    GIVEN,
    compared,
    cut_at,
    quantized_values,
    segment_agreement,
)
from tests.engine.onnx_models import normal
from tests.engine.quantized_models import transformer_block

FEEDS = {"x": normal(2, 5, 24, seed=1), "mask": np.zeros((2, 1, 1, 5), np.float32)}


def test_a_net_is_cut_wherever_it_is_rounded() -> None:
    model = onnx.load_model_from_string(transformer_block(2))
    names = quantized_values(model)
    values = {name: np.zeros((2, 3), np.uint8) for name in names}
    cut = cut_at(model, values, FEEDS)
    assert [v.name for v in cut.graph.output] == list(names)
    assert {v.name for v in cut.graph.input} == {*FEEDS, *(n + GIVEN for n in names)}
    read = {name for node in cut.graph.node for name in node.input}
    assert not read & set(names)
    assert model.graph.output != cut.graph.output  # the model itself is as it was


@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_segments_of_a_transformer_agree(device: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(transformer_block(2))
    found = segment_agreement(path, FEEDS, 1, device)
    assert found.tensors > 10 and found.within == 1.0 and found.equal >= 0.999


def test_a_wrong_scale_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison would see what is systematically off."""
    path = tmp_path / "model.onnx"
    path.write_bytes(transformer_block(2))

    def spoilt(model: onnx.ModelProto, *args: object) -> onnx.ModelProto:
        cut = cut_at(model, *args)  # type: ignore[arg-type]
        (used,) = [n.input[1] for n in cut.graph.node if n.output[0] == quantized_values(model)[3]]
        (scale,) = [t for t in cut.graph.initializer if t.name == used]
        wrong = numpy_helper.to_array(scale) * np.float32(1.05)
        scale.CopyFrom(numpy_helper.from_array(wrong, used))
        return cut

    monkeypatch.setattr("benchmarks.engine.segments.cut_at", spoilt)
    found = segment_agreement(path, FEEDS, 1, "reference")
    assert found.worst < 0.9


def test_steps_between_bytes_are_counted() -> None:
    want = {"a": np.array([1, 2, 3, 255], np.uint8), "b": np.zeros(0, np.int8)}
    got = {"a": np.array([1, 3, 5, 0], np.uint8), "b": np.zeros(0, np.int8)}
    found = compared(got, want)
    assert (found.equal, found.within, found.worst, found.tensor) == (0.25, 0.5, 0.25, "a")


def test_a_plain_model_has_no_segments() -> None:
    with pytest.raises(ValueError, match="quantized"):
        quantized_values(onnx.load_model_from_string(dense_net((4, 2))))


def test_comparing_anew_keeps_the_times() -> None:
    key = Key(3, "resnet50", precision="int8")
    old = Row(key, {"ratio": 2.0, "within_step": 0.5}, commit="old", when="then")
    new = Row(key, {"within_step": 0.75}, commit="new", when="now")
    found = compared_anew(old, new)
    assert found.values == {"ratio": 2.0, "within_step": 0.75}
    assert (found.commit, found.when) == ("old", "then")
    assert compared_anew(None, new) == new
    failed = Row(key, failed="broken")
    assert compared_anew(old, failed) == failed
