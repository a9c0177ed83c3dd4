"""Small networks that turn pictures into vectors, for tests of collections."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from PIL import Image

from tests.server.zoo import save

SIDE = 8
DIM = 6
CONFIG = """task = "embedding"
[preprocess]
resize = [8, 8]
mode = "RGB"
mean = [0.5]
std = [0.5]
[embedding]
output = "vector"
"""


def weights_of(version: str, dim: int = DIM) -> np.ndarray:
    """Return the (3 * SIDE * SIDE, dim) weights of a version."""
    random = np.random.default_rng(sum(version.encode()))
    return random.standard_normal((3 * SIDE * SIDE, dim)).astype(np.float32) * 0.1


def add_eyes(root: Path, version: str = "1", name: str = "eyes", dim: int = DIM) -> Path:
    """Write a version whose `vector`, an inner value, is a linear map of the picture."""
    save(
        root / name / version / "model.onnx",
        [
            helper.make_node("Flatten", ["input"], ["flat"]),
            helper.make_node("MatMul", ["flat", "w"], ["vector"]),
            helper.make_node("ReduceSum", ["vector", "axis"], ["sum"], keepdims=1),
        ],
        {"input": (TensorProto.FLOAT, ["N", 3, SIDE, SIDE])},
        {"sum": (TensorProto.FLOAT, ["N", 1])},
        {"w": weights_of(version, dim), "axis": np.array([1], np.int64)},
    )
    (root / name / "model.toml").write_text(CONFIG)
    return root / name / version


def png(seed: int = 0, size: tuple[int, int] = (SIDE, SIDE), kind: str = "PNG") -> bytes:
    """Return a picture of noise, another one for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def vector_of(data: bytes, version: str = "1", dim: int = DIM) -> np.ndarray:
    """Return the vector that `add_eyes` makes of an 8 x 8 picture, by plain numpy."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.float32)
    row = ((pixels / 255 - 0.5) / 0.5).transpose(2, 0, 1).reshape(-1)
    vector = row @ weights_of(version, dim)
    return (vector / np.linalg.norm(vector)).astype(np.float32)
