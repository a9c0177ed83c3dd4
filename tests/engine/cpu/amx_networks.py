"""Whole networks on tiles, for `amx_checks`: against the reference, one row, one thread or two."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final
from unittest.mock import patch

import numpy as np

import engine
from tests.engine.cpu.amx_emulation import tile_target, used
from tests.engine.onnx_models import model, node, normal
from tests.engine.quantized_models import conv_net

Feeds = dict[str, np.ndarray]
ROWS: Final = 3


@contextmanager
def on_tiles() -> Iterator[None]:
    """Models that are loaded inside use tiles."""
    target = tile_target()
    with patch("engine.cpu.device.host_target", lambda: target):
        yield


def run_all_ways(source: bytes, feeds: Feeds, precision: str) -> np.ndarray:
    """Return the output; the same bits come with two threads, and for a row alone."""
    found: list[np.ndarray] = []
    for threads in (1, 2):
        with (
            on_tiles(),
            used(),
            engine.load(source, device="cpu", precision=precision, threads=threads) as loaded,
        ):
            (y,) = loaded.run(feeds).values()
            for row in range(ROWS):
                one = {name: value[row : row + 1] for name, value in feeds.items()}
                (alone,) = loaded.run(one).values()
                assert alone.tobytes() == y[row : row + 1].tobytes(), f"row {row}"
            found.append(y)
    assert found[0].tobytes() == found[1].tobytes(), "two threads"
    return found[0]


def reference(source: bytes, feeds: Feeds) -> np.ndarray:
    y: np.ndarray
    (y,) = engine.load(source, device="reference").run(feeds).values()
    return y


def half_pictures() -> bytes:
    """A thin input, windows, a residual, a transposed convolution, a classifier."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"], pads=[3, 3, 3, 3], strides=[2, 2]),
        node("Relu", ["a"], ["b"]),
        node("Conv", ["b", "w2", "b2"], ["c"], pads=[1, 1, 1, 1]),
        node("Add", ["c", "b"], ["d"]),
        node("Relu", ["d"], ["e"]),
        node("Conv", ["e", "w3"], ["f"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Conv", ["f", "w4"], ["g"]),
        node("ConvTranspose", ["g", "w6"], ["t"], strides=[2, 2]),
        node("GlobalAveragePool", ["t"], ["h"]),
        node("Flatten", ["h"], ["i"]),
        node("Gemm", ["i", "w5"], ["y"]),
    ]
    shapes = {
        "w1": (32, 3, 7, 7),
        "w2": (32, 32, 3, 3),
        "w3": (64, 32, 3, 3),
        "w4": (96, 64, 1, 1),
        "w5": (40, 10),
        "w6": (96, 40, 2, 2),
        "b2": (32,),
    }
    weights = {name: normal(*s, seed=i) * 0.1 for i, (name, s) in enumerate(shapes.items())}
    return model(nodes, [("x", ("N", 3, 30, 44))], [("y", None)], weights)


def check_half_pictures() -> None:
    source = half_pictures()
    feeds = {"x": normal(ROWS, 3, 30, 44, seed=9)}
    close(run_all_ways(source, feeds, "bf16"), reference(source, feeds))


def check_half_rows() -> None:
    """A gated net between residuals, whose rows are rounded by a normalization or a product."""
    nodes = [
        node("LayerNormalization", ["x", "gamma"], ["n"]),
        node("MatMul", ["n", "w1"], ["a"]),
        node("Sigmoid", ["a"], ["s"]),
        node("Mul", ["a", "s"], ["b"]),
        node("MatMul", ["b", "w2"], ["c"]),
        node("Add", ["c", "x"], ["d"]),
        node("MatMul", ["d", "w3"], ["y"]),
    ]
    shapes = {"w1": (64, 192), "w2": (192, 64), "w3": (64, 30), "gamma": (64,)}
    weights = {name: normal(*s, seed=i) * 0.2 for i, (name, s) in enumerate(shapes.items())}
    source = model(nodes, [("x", ("N", "L", 64))], [("y", ("N", "L", 30))], weights)
    feeds = {"x": normal(ROWS, 13, 64, seed=9)}
    close(run_all_ways(source, feeds, "bf16"), reference(source, feeds))
    # Rows quantized by their own largest magnitude, on the reference device, too.
    y = run_all_ways(source, feeds, "int8")
    close(y, reference(source, feeds), most=5e-2)
    (plain,) = engine.load(source, device="cpu", precision="int8").run(feeds).values()
    np.testing.assert_array_equal(y, plain)


def close(y: np.ndarray, expected: np.ndarray, most: float = 2e-2) -> None:
    """Rounded, and no more than that."""
    error = float(np.abs(y - expected).max() / np.abs(expected).max())
    assert 1e-5 < error < most, error


def check_bytes_of_pictures() -> None:
    source = conv_net(channels=32, filters=64)
    feeds = {"x": normal(ROWS, 32, 9, 9)}
    np.testing.assert_array_equal(run_all_ways(source, feeds, "fp32"), reference(source, feeds))


NETWORK_CHECKS: dict[str, Callable[[], None]] = {
    "network_half_pictures": check_half_pictures,
    "network_half_rows": check_half_rows,
    "network_bytes_of_pictures": check_bytes_of_pictures,
}
