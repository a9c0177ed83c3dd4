from __future__ import annotations

import numpy as np
import pytest

from server.errors import InvalidInput
from server.model_config import ModelConfig
from server.tasks import TensorItem, build_task
from tests.server.tasks.models import FLAT, LOGITS, Axes, Spec


def finish(outputs, item, **keys):
    task = build_task(ModelConfig(), FLAT, LOGITS, (), None, **keys)
    assert task.fetches is None
    return task.finish(outputs, task.prepare(item, {}), {})["outputs"]


ONE = TensorItem({"input": [0, 0, 0, 0]})
TWO = TensorItem({"input": [[0, 0, 0, 0]] * 2})


def test_outputs_are_flat_with_their_shape():
    got = finish({"y": np.arange(6, dtype=np.float32).reshape(2, 3)}, TWO)
    assert got == {"y": {"dtype": "float32", "shape": [2, 3], "data": [0, 1, 2, 3, 4, 5]}}


def test_a_single_item_has_no_axis_of_rows():
    got = finish({"y": np.ones((1, 3), np.float32), "label": np.array([7])}, ONE)
    assert got["y"]["shape"] == [3]
    assert got["label"] == {"dtype": "int64", "shape": [], "data": [7]}


def test_outputs_that_do_not_run_over_rows_stay_whole():
    axes = Axes(frozenset({"input"}), frozenset({"y"}))
    outputs = {"y": np.ones((1, 3), np.float32), "table": np.ones((1, 2), np.float32)}
    got = finish(outputs, ONE, batch=axes)
    assert got["y"]["shape"] == [3]
    assert got["table"]["shape"] == [1, 2]
    assert finish({"s": np.float32(2).reshape(())}, ONE)["s"]["shape"] == []


def test_strings_and_booleans():
    got = finish({"s": np.array(["a"], object), "b": np.array([True])}, ONE)
    assert got["s"] == {"dtype": "string", "shape": [], "data": ["a"]}
    assert got["b"] == {"dtype": "bool", "shape": [], "data": [True]}


def test_there_are_no_parameters():
    task = build_task(ModelConfig(), FLAT, LOGITS, (), None)
    with pytest.raises(InvalidInput, match="task tensors knows: none"):
        task.parameters({"top_k": 1})


def test_string_inputs():
    task = build_task(ModelConfig(), (Spec("s", "object", ("N",)),), LOGITS, (), None)
    prepared = task.prepare(TensorItem({"s": ["a", "b"]}), {})
    assert prepared.rows == 2
