"""Tensors repeated once per item, as exporters write class tokens, keep a model batchable."""

from __future__ import annotations

import numpy as np
import onnx.parser
import pytest

import engine

HEADER = '<ir_version: 10, opset_import: ["" : 18]> model (float[N, 4] x) => (float[M, K] y)'

BATCHED = {
    "expand": "token = Constant <value = float[1, 5] {1, 2, 3, 4, 5}> ()\n"
    "rows = Shape <start = 0, end = 1> (x)\n"
    "width = Constant <value = int64[1] {5}> ()\n"
    "shape = Concat <axis = 0> (rows, width)\n"
    "many = Expand (token, shape)\n"
    "y = Concat <axis = 1> (many, x)",
    "tile": "token = Constant <value = float[1, 5] {1, 2, 3, 4, 5}> ()\n"
    "rows = Shape <start = 0, end = 1> (x)\n"
    "one = Constant <value = int64[1] {1}> ()\n"
    "repeats = Concat <axis = 0> (rows, one)\n"
    "many = Tile (token, repeats)\n"
    "y = Concat <axis = 1> (many, x)",
    "tile of several": "token = Constant <value = float[2, 2] {1, 2, 3, 4}> ()\n"
    "rows = Shape <start = 0, end = 1> (x)\n"
    "one = Constant <value = int64[1] {1}> ()\n"
    "repeats = Concat <axis = 0> (rows, one)\n"
    "many = Tile (token, repeats)\n"
    "target = Constant <value = int64[2] {-1, 4}> ()\n"
    "four = Reshape (many, target)\n"
    "y = Add (four, x)",
    "fill": "rows = Shape <start = 0, end = 1> (x)\n"
    "width = Constant <value = int64[1] {2}> ()\n"
    "shape = Concat <axis = 0> (rows, width)\n"
    "many = ConstantOfShape (shape)\n"
    "y = Concat <axis = 1> (many, x)",
    "gathered size": "all = Shape (x)\n"
    "first = Constant <value = int64[1] {0}> ()\n"
    "rows = Gather (all, first)\n"
    "rest = Constant <value = int64[2] {2, -1}> ()\n"
    "shape = Concat <axis = 0> (rows, rest)\n"
    "cube = Reshape (x, shape)\n"
    "y = Flatten (cube)",
    "sliced by a fixed dim": "width = Shape <start = 1> (x)\n"
    "zero = Constant <value = int64[1] {0}> ()\n"
    "one = Constant <value = int64[1] {1}> ()\n"
    "y = Slice (x, zero, width, one)",
}

MIXED = {
    "as wide as there are items": "rows = Shape <start = 0, end = 1> (x)\n"
    "shape = Concat <axis = 0> (rows, rows)\n"
    "y = ConstantOfShape (shape)",
    "sliced by the number of items": "rows = Shape <start = 0, end = 1> (x)\n"
    "zero = Constant <value = int64[1] {0}> ()\n"
    "one = Constant <value = int64[1] {1}> ()\n"
    "y = Slice (x, zero, rows, one)",
    "numbered": "zero = Constant <value = int64 {0}> ()\n"
    "one = Constant <value = int64 {1}> ()\n"
    "sizes = Shape <start = 0, end = 1> (x)\n"
    "none = Constant <value = int64[1] {0}> ()\n"
    "rows = Squeeze (sizes, none)\n"
    "places = Range (zero, rows, one)\n"
    "numbers = Cast <to = 1> (places)\n"
    "last = Constant <value = int64[1] {1}> ()\n"
    "column = Unsqueeze (numbers, last)\n"
    "y = Add (x, column)",
}


def load(body: str) -> engine.Model:
    model = onnx.parser.parse_model(HEADER + "{\n" + body + "\n}")
    return engine.load(model.SerializeToString(), device="reference")


@pytest.mark.parametrize("name", BATCHED)
def test_batched(name):
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    with load(BATCHED[name]) as model:
        assert model.batch_reason is None
        together = model.run({"x": x})["y"]
        for k in range(3):
            np.testing.assert_array_equal(model.run({"x": x[k : k + 1]})["y"], together[k : k + 1])


@pytest.mark.parametrize("name", MIXED)
def test_mixed(name):
    with load(MIXED[name]) as model:
        assert model.batch is None
        assert model.batch_reason
