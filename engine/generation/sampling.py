"""Drawing a token at random: temperature, top-k, top-p, as Hugging Face orders them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def probabilities(
    logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float
) -> NDArray[np.float64]:
    """Return with which probability each token is drawn.

    Args:
        logits: (V,), minus infinity for what is forbidden.
        temperature: What logits are divided by.
        top_k: Only the k best tokens are drawn, with all that equal the last; 0 for all.
        top_p: Of these, only the best that together have this probability.
    """
    scaled = logits.astype(np.float64) / temperature
    if 0 < top_k < scaled.size:
        least = np.partition(scaled, -top_k)[-top_k]
        scaled = np.where(scaled < least, -np.inf, scaled)
    weights: NDArray[np.float64] = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    if top_p < 1:
        order = np.argsort(weights, kind="stable")
        unlikely = np.cumsum(weights[order]) <= 1 - top_p
        unlikely[-1] = False
        weights[order[unlikely]] = 0.0
        weights /= weights.sum()
    return weights


def draw(weights: NDArray[np.float64], seed: int, step: int) -> int:
    """Return the token that this seed draws at this step, whatever was drawn elsewhere."""
    generator = np.random.Generator(np.random.Philox(key=seed % 2**128, counter=step))
    sums = np.cumsum(weights)
    # Below the total: rounding must not end behind the last token that has a probability.
    target = min(generator.random() * sums[-1], np.nextafter(sums[-1], 0.0))
    return int(np.searchsorted(sums, target, side="right"))
