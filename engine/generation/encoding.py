"""Sentences through the encoder, several at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from engine.passes.cache_names import PLAIN_MASK, TOKENS
from engine.session import Model

Sentences = Sequence[Sequence[int]]


PADDED_TO: Final = 8  # so that few lengths occur: a length that is new to a model costs time


def encoder_feeds(
    model: Model, sentences: Sentences, most: int | None = None
) -> dict[str, NDArray[np.int64]]:
    """Return tokens (n, m), padded at the right, and the mask where the model takes one; m is at
    most `most`.
    """
    longest = max(map(len, sentences))
    if _takes_mask(model):
        longest = max(longest, min(-(-longest // PADDED_TO) * PADDED_TO, most or longest))
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
    return [numbers] if _takes_mask(model) else [[number] for number in numbers]


def _takes_mask(model: Model) -> bool:
    return any(spec.name == PLAIN_MASK for spec in model.inputs)


def encode(
    model: Model, sentences: Sentences, most: int | None = None
) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
    """Yield numbers of sentences and their states (n, m, d), m being the longest of them or more,
    up to `most`.
    """
    for numbers in groups(model, sentences):
        feeds = encoder_feeds(model, [sentences[number] for number in numbers], most)
        yield numbers, model.run(feeds)[model.outputs[0].name]
