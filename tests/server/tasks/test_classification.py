from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InternalFault, InvalidInput, LoadFailed
from server.model_config import ClassificationConfig, ModelConfig
from server.tasks import TensorItem, TextItem, build_task
from server.tasks.classification import activate, best_of
from tests.server.tasks.models import FLAT, LOGITS, Spec

LABELS = ("cat", "dog", "owl")


def task_of(labels=LABELS, outputs=LOGITS, kept=(), **keys):
    config = ModelConfig(task="classification", classification=ClassificationConfig(**keys))
    return build_task(config, FLAT, outputs, kept, labels)


def classify(task, logits, parameters=None, rows=None):
    raw = parameters or {}
    item = TensorItem({"input": [0, 0, 0, 0] if rows is None else [[0, 0, 0, 0]] * rows})
    prepared = task.prepare(item, task.parameters(raw))
    return task.finish({task.fetches[0]: np.array(logits, np.float32)}, prepared, raw)[
        "predictions"
    ]


def test_predictions_are_labelled_and_sorted():
    got = classify(task_of(), [[1.0, 3.0, 2.0]])
    assert [p["label"] for p in got] == ["dog", "owl", "cat"]
    assert [p["index"] for p in got] == [1, 2, 0]
    assert got[0]["score"] == pytest.approx(0.66524, abs=1e-5)
    assert sum(p["score"] for p in got) == pytest.approx(1.0)


def test_several_rows_give_a_list_for_each():
    got = classify(task_of(), [[9, 0, 0], [0, 9, 0]], rows=2)
    assert [row[0]["label"] for row in got] == ["cat", "dog"]


def test_one_row_with_its_axis_gives_a_list_of_one():
    got = classify(task_of(), [[9, 0, 0]], rows=1)
    assert got[0][0]["label"] == "cat"


@pytest.mark.parametrize(("top_k", "count"), [(1, 1), (2, 2), (3, 3), (50, 3), ("2", 2)])
def test_top_k_is_clipped_to_the_classes(top_k, count):
    assert len(classify(task_of(), [[1, 2, 3]], {"top_k": top_k})) == count


def test_without_labels_the_index_is_the_label():
    assert classify(task_of(None), [[0, 0, 9]])[0]["label"] == "2"


def test_equal_scores_are_in_order_of_index():
    assert [p["index"] for p in classify(task_of(), [[1, 1, 1]])] == [0, 1, 2]


def test_activation_none_gives_the_values_as_they_are():
    got = classify(task_of(activation="none"), [[0.25, 0.5, 0.125]])
    assert [p["score"] for p in got] == [0.5, 0.25, 0.125]


def test_a_threshold_drops_what_is_below():
    got = classify(task_of(activation="none"), [[0.25, 0.5, 0.125]], {"threshold": 0.25})
    assert [p["score"] for p in got] == [0.5, 0.25]


def test_multi_label_gives_every_class_above_the_threshold():
    task = task_of(multi_label=True)
    got = classify(task, [[3.0, -3.0, 0.1]])
    assert [p["label"] for p in got] == ["cat", "owl"]
    assert got[0]["score"] == pytest.approx(1 / (1 + np.exp(-3.0)))
    assert classify(task, [[-3.0, -3.0, -3.0]]) == []
    assert len(classify(task, [[3.0, 3.0, 3.0]], {"top_k": 2})) == 2
    assert len(classify(task, [[3.0, 3.0, 3.0]], {"threshold": 0.99})) == 0


def test_multi_label_is_not_cut_at_the_default_top_k():
    task = task_of(None, (Spec("y", "float32", ("N", 20)),), multi_label=True)
    assert len(classify(task, np.full((1, 20), 5.0))) == 20


def test_multi_label_with_softmax_is_refused():
    with pytest.raises(LoadFailed, match="do not compete"):
        task_of(multi_label=True, activation="softmax")


def test_pooled_spatial_outputs_are_flattened():
    outputs = (Spec("y", "float32", ("N", 3, 1, 1)),)
    got = classify(task_of(outputs=outputs), np.array([1, 5, 2]).reshape(1, 3, 1, 1))
    assert got[0]["label"] == "dog"


def test_real_spatial_outputs_are_refused():
    with pytest.raises(LoadFailed, match="not one vector a row"):
        task_of(None, (Spec("y", "float32", ("N", 3, 7, 7)),))
    dynamic = task_of(None, (Spec("y", "float32", ("N", 3, "H", "W")),))
    with pytest.raises(InternalFault, match=r"shape \[1, 3, 7, 7\]"):
        classify(dynamic, np.zeros((1, 3, 7, 7)))


def test_labels_must_match_the_classes():
    with pytest.raises(LoadFailed, match="2 labels for 3 classes"):
        task_of(("a", "b"))
    dynamic = task_of(("a", "b"), (Spec("y", "float32", ("N", "C")),))
    assert {p["label"] for p in classify(dynamic, [[1, 2, 3]])} == {"a", "b", "2"}


def test_any_named_value_can_hold_the_scores():
    assert task_of(None, output="hidden", kept=("hidden",)).fetches == ("hidden",)
    with pytest.raises(LoadFailed, match=r"\[classification\] output 'nope'.* there are: logits"):
        task_of(output="nope")
    with pytest.raises(LoadFailed, match="no outputs"):
        task_of(outputs=())


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"top_k": 0}, "'top_k' must be an integer of at least 1, got 0"),
        ({"top_k": 2.5}, "'top_k' must be"),
        ({"top_k": True}, "'top_k' must be"),
        ({"top_k": "many"}, "'top_k' must be"),
        ({"top_k": None}, "'top_k' must be"),
        ({"threshold": 2}, "a number from 0 to 1"),
        ({"threshold": "high"}, "a number from 0 to 1"),
        ({"threshold": "nan"}, "a number from 0 to 1"),
        ({"topk": 3}, "unknown parameter 'topk'; task classification knows: top_k, threshold"),
    ],
)
def test_wrong_parameters_are_refused_before_anything_runs(parameters, message):
    task = task_of()
    with pytest.raises(InvalidInput, match=message):
        task.prepare(TensorItem({"input": [0, 0, 0, 0]}), parameters)
    with pytest.raises(InvalidInput, match=message):
        task.parameters(parameters)


def test_text_is_refused():
    with pytest.raises(InvalidInput, match="pictures or tensors, got text"):
        task_of().prepare(TextItem("hello"), {})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_are_an_error_of_the_item(value):
    with pytest.raises(InvalidInput, match="not finite"):
        classify(task_of(), [[1.0, value, 0.0]])


def test_masked_classes_score_nothing():
    got = classify(task_of(), [[1.0, -np.inf, 0.0]])
    assert got[-1] == {"label": "dog", "index": 1, "score": 0.0}


logits = st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1, max_size=40)


@given(logits)
def test_softmax_is_a_distribution_in_the_order_of_its_values(values):
    array = np.array(values, np.float32)
    scores = activate(array, "softmax")
    assert scores.sum() == pytest.approx(1.0)
    assert (np.diff(scores[np.argsort(array)]) >= 0).all()
    shifted = activate(array.astype(np.float64) - float(array.max()), "softmax")
    np.testing.assert_allclose(scores, shifted, atol=1e-12)


@given(logits)
def test_sigmoid_equals_its_definition_and_never_overflows(values):
    scores = activate(np.array(values, np.float32), "sigmoid")
    assert ((scores >= 0) & (scores <= 1)).all()
    small = np.clip(values, -500, 500)
    np.testing.assert_allclose(scores, 1 / (1 + np.exp(-small)), atol=1e-12)


@given(st.integers(1, 6000), st.integers(1, 30), st.integers(0, 100))
def test_the_best_of_many_classes_equal_a_full_sort(count, top_k, seed):
    scores = np.random.default_rng(seed).integers(0, 50, count).astype(np.float64)  # many ties
    expected = sorted(range(count), key=lambda i: (-scores[i], i))[:top_k]
    assert best_of(scores, top_k).tolist() == expected
