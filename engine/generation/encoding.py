"""Sentences through the encoder, several at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.passes.cache_names import PLAIN_MASK, TOKENS
from engine.session import Model

Sentences = Sequence[Sequence[int]]


def encoder_feeds(model: Model, sentences: Sentences) -> dict[str, NDArray[np.int64]]:
    """Return tokens (n, m), padded at the right, and the mask where the model takes one."""
    longest = max(map(len, sentences))
    tokens = np.zeros((len(sentences), longest), np.int64)
    mask = np.zeros((len(sentences), longest), np.int64)
    for row, sentence in enumerate(sentences):
        tokens[row, : len(sentence)] = sentence
        mask[row, : len(sentence)] = 1
    feeds = {TOKENS: tokens, PLAIN_MASK: mask}
    kinds = {spec.name: np.dtype(spec.dtype) for spec in model.inputs}
    return {n: array.astype(kinds[n], copy=False) for n, array in feeds.items() if n in kinds}


def groups(model: Model, sentences: Sentences) -> list[list[int]]:
    """Return the numbers of sentences that may share a run: all of them, unless the model takes no
    mask, so that padding would count.
    """
    numbers = list(range(len(sentences)))
    if any(spec.name == PLAIN_MASK for spec in model.inputs):
        return [numbers]
    return [[number] for number in numbers]


def encode(model: Model, sentences: Sentences) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Yield numbers of sentences and their states (n, m, d), m being the longest of them."""
    for numbers in groups(model, sentences):
        feeds = encoder_feeds(model, [sentences[number] for number in numbers])
        yield numbers, model.run(feeds)[model.outputs[0].name]
