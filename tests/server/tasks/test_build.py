"""Which task a model gets, and pictures through a whole task."""

from __future__ import annotations

import numpy as np
import pytest

from server.errors import InvalidInput, LoadFailed, PayloadTooLarge, UnsupportedMedia
from server.model_config import (
    ClassificationConfig,
    EmbeddingConfig,
    ModelConfig,
    PreprocessConfig,
)
from server.tasks import TASKS, ImageItem, ImageLimits, TensorItem, build_task, task_kinds
from tests.server.preprocessing.pictures import encode, gradient
from tests.server.tasks.models import FLAT, LOGITS, PICTURE, Spec

EMBEDS = EmbeddingConfig(output="logits")


@pytest.mark.parametrize(
    ("keys", "labels", "kinds"),
    [
        ({}, None, ("tensors",)),
        ({}, ("a", "b", "c"), ("classification",)),
        ({"classification": ClassificationConfig()}, None, ("classification",)),
        ({"embedding": EMBEDS}, None, ("embedding",)),
        ({"embedding": EMBEDS}, ("a", "b", "c"), ("classification", "embedding")),
        ({"task": "tensors", "embedding": EMBEDS}, None, ("tensors", "embedding")),
        ({"task": "embedding"}, ("a", "b", "c"), ("embedding",)),
    ],
)
def test_the_task_follows_from_what_is_there(keys, labels, kinds):
    config = ModelConfig(**keys)
    assert task_kinds(config, labels) == kinds
    assert build_task(config, FLAT, LOGITS, (), labels).name == kinds[0]
    for kind in kinds:
        assert build_task(config, FLAT, LOGITS, (), labels, kind=kind).name == kind


def test_a_task_the_model_is_not_for():
    with pytest.raises(LoadFailed, match="for classification, not for embedding"):
        build_task(ModelConfig(task="classification"), FLAT, LOGITS, (), None, kind="embedding")


def test_every_task_of_the_config_is_in_the_table():
    assert set(TASKS) == {"classification", "embedding", "tensors"}


def picture_task(**keys):
    config = ModelConfig(preprocess=PreprocessConfig(), **keys)
    return build_task(config, PICTURE, LOGITS, (), ("a", "b", "c"))


def test_pictures_become_the_models_input_with_timings():
    task = picture_task()
    item = ImageItem(encode(gradient(30, 40)))
    assert task.is_heavy(item)
    assert not task.is_heavy(TensorItem({"input": [1.0]}))
    prepared = task.prepare(item, {})
    assert prepared.single and prepared.rows == 1
    assert prepared.inputs["input"].shape == (1, 3, 8, 8)
    assert prepared.inputs["input"].dtype == np.float32
    assert set(prepared.timings) == {"decode", "preprocess"}
    got = task.finish({"logits": np.array([[1, 2, 3]], np.float32)}, prepared, {"top_k": 1})
    assert got["predictions"][0]["label"] == "c"


def test_a_classifier_of_pictures_takes_tensors_too():
    prepared = picture_task().prepare(TensorItem({"input": np.zeros((3, 8, 8)).tolist()}), {})
    assert prepared.inputs["input"].shape == (1, 3, 8, 8)


@pytest.mark.parametrize("name", ["classification", "embedding", "tensors"])
def test_every_task_takes_pictures(name):
    task = picture_task(task=name)
    item = ImageItem(encode(gradient(9, 9), "JPEG"))
    assert task.is_heavy(item)
    assert task.prepare(item, {}).rows == 1


def test_without_preprocess_a_picture_is_refused_with_the_keys_to_set():
    task = build_task(ModelConfig(), PICTURE, LOGITS, (), None)
    with pytest.raises(InvalidInput) as caught:
        task.prepare(ImageItem(encode(gradient(8, 8)), "inputs[1].image"), {})
    for key in ("[preprocess]", "`mean`", "`std`", "`resize`", "model.toml"):
        assert key in caught.value.message
    assert caught.value.extra["field"] == "inputs[1].image"


def test_preprocess_needs_one_input():
    two = (*PICTURE, Spec("other", "float32", ("N", 1)))
    with pytest.raises(LoadFailed, match="one input, this one has 2: input, other"):
        build_task(ModelConfig(preprocess=PreprocessConfig()), two, LOGITS, (), None)


def test_limits_and_fields_reach_the_decoder():
    config = ModelConfig(preprocess=PreprocessConfig())
    task = build_task(config, PICTURE, LOGITS, (), None, limits=ImageLimits(max_image_pixels=100))
    with pytest.raises(PayloadTooLarge) as caught:
        task.prepare(ImageItem(encode(gradient(20, 20)), "inputs[2].image"), {})
    assert caught.value.extra["field"] == "inputs[2].image"
    with pytest.raises(UnsupportedMedia):
        task.prepare(ImageItem(b"%PDF-1.4"), {})
