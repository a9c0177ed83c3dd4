"""Drawing a token at random: temperature, top-k, top-p, as Hugging Face orders them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Chances:
    """Tokens that can be drawn, in ascending order, and with which probability each. (n,)"""

    tokens: NDArray[np.int64]
    weights: NDArray[np.float64]

    def draw(self, seed: int, step: int) -> int:
        """Return the token that this seed draws at this step, whatever was drawn elsewhere."""
        generator = np.random.Generator(np.random.Philox(key=seed % 2**128, counter=step))
        sums = np.cumsum(self.weights)
        # Below the total: rounding must not end behind the last token that has a probability.
        target = min(generator.random() * sums[-1], np.nextafter(sums[-1], 0.0))
        return int(self.tokens[np.searchsorted(sums, target, side="right")])


def chances(logits: NDArray[np.float32], temperature: float, top_k: int, top_p: float) -> Chances:
    """Return what can be drawn.

    Args:
        logits: (V,), minus infinity for what is forbidden, something else for one token at least.
        temperature: What logits are divided by.
        top_k: Only the k best tokens are drawn, with all that equal the last; 0 for all.
        top_p: Of these, only the best that together have this probability.
    """
    tokens = np.flatnonzero(logits > -np.inf)
    if 0 < top_k < tokens.size:
        least = np.partition(logits[tokens], -top_k)[-top_k]
        tokens = tokens[logits[tokens] >= least]
    scaled = logits[tokens].astype(np.float64) / temperature
    weights = np.exp(scaled - scaled.max())
    weights /= weights.sum()
    found = Chances(tokens, weights)
    return _likely(found, top_p) if top_p < 1 else found


def _likely(found: Chances, top_p: float) -> Chances:
    """Leave the least likely tokens out that together have no more than the rest of `top_p`."""
    weights, rest = found.weights, 1 - top_p
    # Those that would not exceed the rest even if all tokens were as likely need no sorting.
    few = weights * weights.size > rest
    order = np.flatnonzero(few)[np.argsort(weights[few], kind="stable")]
    keeps = weights[~few].sum() + np.cumsum(weights[order]) > rest
    keeps[-1:] = True
    kept = np.sort(order[keeps])
    return Chances(found.tokens[kept], weights[kept] / weights[kept].sum())
