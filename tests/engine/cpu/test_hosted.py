"""NonMaxSuppression by native code gives the rows of the portable definition."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper as h

import engine
from engine.cpu.kernels.suppression import Suppress
from engine.cpu.native import compile_kernel
from engine.cpu.target import ISAS, target_for
from tests.engine.onnx_models import model


def pair(center: int, names: int = 5) -> tuple[engine.Model, engine.Model]:
    inputs = [
        ("boxes", ["N", "B", 4]),
        ("scores", ["N", "C", "B"]),
        ("most", [1], 7),
        ("overlap", [1]),
        ("least", [1]),
    ][:names]
    made = model(
        [h.make_node("NonMaxSuppression", [i[0] for i in inputs], ["y"], center_point_box=center)],
        inputs,
        [("y", ["S", 3], 7)],
    )
    return engine.load(made, device="cpu"), engine.load(made, device="reference")


def random_boxes(rng: np.random.Generator, images: int, count: int) -> np.ndarray:
    boxes = rng.random((images, count, 4), dtype=np.float32)
    boxes[:, ::7, 2:] = boxes[:, ::7, :2]  # without an area
    boxes[:, 1::9] = boxes[:, :1]  # the same again
    return boxes


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize("count", [1, 5, 16, 33, 400])
def test_the_rows_are_those_of_the_portable_definition(count: int, center: int) -> None:
    rng = np.random.default_rng(count)
    native, portable = pair(center)
    for most, overlap, least in ((3, 0.5, 0.1), (1000, 0.3, 0.0), (1000, 0.0, 0.5), (10, 1.0, 0.9)):
        scores = rng.random((2, 3, count), dtype=np.float32).round(2)  # with ties
        feeds = {
            "boxes": random_boxes(rng, 2, count),
            "scores": scores,
            "most": np.array([most]),
            "overlap": np.array([overlap], np.float32),
            "least": np.array([least], np.float32),
        }
        np.testing.assert_array_equal(native.run(feeds)["y"], portable.run(feeds)["y"])


def test_without_limits_of_score_and_with_unusual_values() -> None:
    rng = np.random.default_rng(0)
    native, portable = pair(0, 4)
    boxes, scores = random_boxes(rng, 1, 40), rng.standard_normal((1, 2, 40)).astype(np.float32)
    strange = scores.copy()
    strange[0, 0, 3:6] = np.nan, -np.inf, np.inf
    for each in (scores, strange, scores[:, :, :0]):
        feeds = {
            "boxes": boxes[:, : each.shape[2]],
            "scores": each,
            "most": np.array([20]),
            "overlap": np.array([0.4], np.float32),
        }
        np.testing.assert_array_equal(native.run(feeds)["y"], portable.run(feeds)["y"])


@pytest.mark.parametrize("isa", ISAS)
def test_the_kernel_compiles_for_every_instruction_set(isa: str) -> None:
    assert compile_kernel(Suppress(), "kernel", target_for(isa))
