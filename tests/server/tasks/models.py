"""Inputs and outputs of models, as tasks see them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Axes:
    inputs: frozenset[str]
    outputs: frozenset[str]


FLAT = (Spec("input", "float32", ("N", 4)),)
PICTURE = (Spec("input", "float32", ("N", 3, 8, 8)),)
LOGITS = (Spec("logits", "float32", ("N", 3)),)
