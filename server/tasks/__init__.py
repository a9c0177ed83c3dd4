"""Tasks: what a model is for, as items in and results out.

A task never touches HTTP, the engine or the batcher. `TASKS` is the table of them; adding one is
a file and a line here (see docs/adding-a-task.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from server.errors import LoadFailed
from server.model_config import EmbeddingConfig, ModelConfig
from server.preprocessing import ImageLimits
from server.tensors import TensorSpecLike

from .base import (
    BatchAxesLike,
    ImageItem,
    Item,
    Parameters,
    Prepared,
    Task,
    TensorItem,
    TextItem,
)
from .classification import ClassificationTask
from .embedding import EmbeddingTask
from .items import ItemReader, build_item_reader
from .tensors import TensorsTask
from .translation import TranslationOptions, TranslationTask
from .vectors import pick_output, vector_size

__all__ = [
    "TASKS",
    "ImageItem",
    "ImageLimits",
    "Item",
    "Parameters",
    "Prepared",
    "Task",
    "TensorItem",
    "TextItem",
    "TranslationOptions",
    "TranslationTask",
    "build_task",
    "task_kinds",
]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model when its task is built."""

    config: ModelConfig
    outputs: Sequence[TensorSpecLike]
    kept: Collection[str]
    labels: Sequence[str] | None
    items: ItemReader


def _classification(facts: ModelFacts) -> Task:
    config = facts.config.classification
    output = pick_output(config.output, facts.outputs, facts.kept, "classification")
    classes = vector_size(output, facts.outputs, "classification")
    return ClassificationTask(facts.items, output, config, facts.labels, classes)


def _embedding(facts: ModelFacts) -> Task:
    config = facts.config.embedding or EmbeddingConfig()
    output = pick_output(config.output, facts.outputs, facts.kept, "embedding")
    vector_size(output, facts.outputs, "embedding")
    return EmbeddingTask(facts.items, output, config)


def _tensors(facts: ModelFacts) -> Task:
    return TensorsTask(facts.items)


TASKS: dict[str, Callable[[ModelFacts], Task]] = {
    "classification": _classification,
    "embedding": _embedding,
    "tensors": _tensors,
}


def task_kinds(config: ModelConfig, labels: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the tasks that a model serves, its own one first.

    Without `task` in model.toml: a model with labels or a [classification] section classifies,
    one with an [embedding] section embeds, any other one takes and gives tensors. A classifier
    with an [embedding] section does both.
    """
    classifies = labels is not None or "classification" in config.model_fields_set
    first: str
    if config.task is not None:
        first = config.task
    elif classifies:
        first = "classification"
    else:
        first = "tensors" if config.embedding is None else "embedding"
    if config.embedding is not None and first != "embedding":
        return first, "embedding"
    return (first,)


def build_task(
    config: ModelConfig,
    inputs: Sequence[TensorSpecLike],
    outputs: Sequence[TensorSpecLike],
    kept: Collection[str],
    labels: Sequence[str] | None,
    *,
    kind: str | None = None,
    batch: BatchAxesLike | None = None,
    limits: ImageLimits | None = None,
) -> Task:
    """Build the task of a model; `kind` picks another one than its first (see `task_kinds`).

    Args:
        config: the model's `model.toml`.
        inputs: the model's inputs.
        outputs: the graph's outputs.
        kept: every value that can be fetched.
        labels: the classes' names, if there are any.
        kind: which of the model's tasks.
        batch: which inputs and outputs run over rows; None: those whose first dim varies.
        limits: bounds on pictures.

    Raises:
        LoadFailed: the config contradicts itself or the model; the message names the key.
    """
    kinds = task_kinds(config, labels)
    kind = kind or kinds[0]
    if kind == TranslationTask.name:
        raise LoadFailed(
            'task = "translation" needs encoder_model.onnx and decoder_model*.onnx, and no '
            "[embedding]"
        )
    if kind not in kinds:
        raise LoadFailed(f"this model is for {' and '.join(kinds)}, not for {kind}")
    items = build_item_reader(config.preprocess, inputs, batch, limits or ImageLimits())
    return TASKS[kind](ModelFacts(config, outputs, kept, labels, items))
