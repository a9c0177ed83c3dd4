"""What every task shares: items, what becomes of them, and the checks of parameters.

A task turns one item of a request into the model's inputs and the model's outputs into one
result. It never touches HTTP, the engine or the batcher, so it can be tried with plain arrays.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from server.errors import InvalidInput

Array = np.ndarray[Any, np.dtype[Any]]
Arrays = dict[str, Array]
Parameters = Mapping[str, Any]  # as `Task.parameters` returned it


@dataclass(frozen=True, slots=True)
class ImageItem:
    """One picture, as its file's bytes."""

    data: bytes
    field: str = "image"  # where it stood in the request, for errors


@dataclass(frozen=True, slots=True)
class TensorItem:
    """One set of named tensors: nested lists or arrays, with or without the axis of rows."""

    tensors: Mapping[str, Any]
    field: str = "tensors"  # where they stood in the request, for errors


@dataclass(frozen=True, slots=True)
class TextItem:
    """One text."""

    text: str
    field: str = "text"  # where it stood in the request, for errors


Item = ImageItem | TensorItem | TextItem


@dataclass(slots=True)
class Prepared:
    """One item, ready to be queued."""

    inputs: Arrays  # every one that the batch runs over has `rows` rows
    rows: int
    single: bool  # the item had no axis of rows; its result has none either
    timings: dict[str, float] = field(default_factory=dict)  # "decode", "preprocess": seconds


class BatchAxesLike(Protocol):
    """Which inputs and outputs have the batch as their first axis."""

    @property
    def inputs(self) -> frozenset[str]:
        """Return the inputs' names."""

    @property
    def outputs(self) -> frozenset[str]:
        """Return the outputs' names."""


class Task(Protocol):
    """Items in, results out, for one version of one model."""

    name: str
    fetches: tuple[str, ...] | None  # the values it needs; None: the graph's outputs

    def parameters(self, raw: Parameters) -> Parameters:
        """Check a request's parameters and fill in the model's defaults."""

    def is_heavy(self, item: Item) -> bool:
        """Say whether `prepare` of this item takes too long for the event loop."""

    def prepare(self, item: Item, parameters: Parameters) -> Prepared:
        """Turn an item into the model's inputs; safe in any thread."""

    def finish(self, outputs: Arrays, prepared: Prepared, parameters: Parameters) -> dict[str, Any]:
        """Turn the model's outputs for the item into its result."""


class CheckedParameters(dict[str, Any]):
    """Parameters that have been checked and completed; checking them again is free."""


def unknown_parameter(name: str, known: tuple[str, ...], task: str) -> InvalidInput:
    """Return the error for a parameter that the task does not have."""
    have = ", ".join(known) if known else "none"
    return InvalidInput(
        f"unknown parameter {name[:100]!r}; task {task} knows: {have}",
        field=f"parameters.{name[:100]}",
        expected=list(known),
        got=name[:100],
    )


def wrong_parameter(name: str, expected: str, got: Any) -> InvalidInput:
    """Return the error for a parameter whose value cannot be used."""
    shown = repr(got)[:100]
    return InvalidInput(
        f"parameter {name!r} must be {expected}, got {shown}",
        field=f"parameters.{name}",
        expected=expected,
        got=shown,
    )
