"""Models without a cache, as `RecomputingSlots` drives them: whole prefixes in, logits out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from engine.errors import NotRecognised
from engine.generation.encoding import encode, encoder_feeds, groups
from engine.passes.cache_names import ENCODED, SOURCE_MASK, TARGET_MASK, TOKENS, WHOLE_TOKENS
from engine.passes.roles import LAST
from engine.session import Model


class PrefixDecoder:
    """A `PrefixModel` of an encoder and a decoder without past; keeps what the encoder made."""

    def __init__(self, encoder: Model, decoder: Model) -> None:
        self._encoder, self._decoder = encoder, decoder
        self._states: dict[int, NDArray[np.float32]] = {}
        self.vocabulary_size = vocabulary_of(decoder)

    def encode(self, sentences: Sequence[Sequence[int]], sources: Sequence[int]) -> None:
        """Encode sentences in one batch and keep them under these numbers."""
        for numbers, states in encode(self._encoder, sentences):
            for row, number in enumerate(numbers):
                self._states[sources[number]] = states[row, : len(sentences[number])].copy()

    def logits_of(
        self, prefixes: NDArray[np.int64], lengths: NDArray[np.int64], sources: Sequence[int]
    ) -> NDArray[np.float32]:
        """Return the logits after each prefix, (n, V)."""
        chosen = [self._states[source] for source in sources]
        longest = max(map(len, chosen))
        encoded = np.zeros((len(chosen), longest, chosen[0].shape[1]), np.float32)
        mask = np.zeros((len(chosen), longest), np.int64)
        for row, states in enumerate(chosen):
            encoded[row, : len(states)] = states
            mask[row, : len(states)] = 1
        feeds = {**target_feeds(TOKENS, prefixes, lengths), ENCODED: encoded, SOURCE_MASK: mask}
        return run_padded(self._decoder, feeds, [len(states) for states in chosen])

    def memory_bytes(self) -> int:
        """Return the bytes of the sources that are kept."""
        return sum(states.nbytes for states in self._states.values())

    def close(self) -> None:
        """Forget them."""
        self._states.clear()


class WholeModel:
    """A `PrefixModel` of one graph that encodes and decodes; keeps the sentences themselves."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self._sentences: dict[int, tuple[int, ...]] = {}
        self.vocabulary_size = vocabulary_of(model)

    def encode(self, sentences: Sequence[Sequence[int]], sources: Sequence[int]) -> None:
        """Keep sentences under these numbers: they are encoded in every step."""
        for sentence, source in zip(sentences, sources, strict=True):
            self._sentences[source] = tuple(sentence)

    def logits_of(
        self, prefixes: NDArray[np.int64], lengths: NDArray[np.int64], sources: Sequence[int]
    ) -> NDArray[np.float32]:
        """Return the logits after each prefix, (n, V)."""
        chosen = [self._sentences[source] for source in sources]
        found = np.zeros((len(chosen), self.vocabulary_size), np.float32)
        for numbers in groups(self._model, chosen):
            feeds = target_feeds(WHOLE_TOKENS, prefixes[numbers], lengths[numbers])
            feeds |= encoder_feeds(self._model, [chosen[number] for number in numbers])
            found[numbers] = run_known(self._model, feeds)
        return found

    def memory_bytes(self) -> int:
        """Return about what the sentences take."""
        return sum(8 * len(sentence) for sentence in self._sentences.values())

    def close(self) -> None:
        """Forget them."""
        self._sentences.clear()


def vocabulary_of(decoder: Model) -> int:
    """Return how many tokens logits are given for."""
    shape = decoder.outputs[0].shape or (None,)
    size = shape[-1]
    if not isinstance(size, int):
        raise NotRecognised(f"the logits are {list(shape)}, expected a fixed vocabulary")
    return size


def target_feeds(
    name: str, prefixes: NDArray[np.int64], lengths: NDArray[np.int64]
) -> dict[str, NDArray[np.generic]]:
    """Return prefixes under their name, where each ends, and a mask of their tokens."""
    mask = np.arange(prefixes.shape[1])[None] < lengths[:, None]
    return {name: prefixes, TARGET_MASK: mask.astype(np.int64), LAST: lengths - 1}


def run_padded(
    decoder: Model, feeds: Mapping[str, NDArray[np.generic]], spans: Sequence[int]
) -> NDArray[np.float32]:
    """Run a decoder over padded sources: row by row where it takes no mask of them."""
    if any(spec.name == SOURCE_MASK for spec in decoder.inputs) or len(set(spans)) == 1:
        return run_known(decoder, feeds)
    rows = []
    for row, span in enumerate(spans):
        one = {name: array[row : row + 1] for name, array in feeds.items()}
        rows.append(run_known(decoder, {**one, ENCODED: one[ENCODED][:, :span]}))
    return np.concatenate(rows)


def run_known(model: Model, feeds: Mapping[str, NDArray[np.generic]]) -> NDArray[np.float32]:
    """Run with those feeds that the model takes, in its types."""
    kinds = {spec.name: np.dtype(spec.dtype) for spec in model.inputs}
    given = {n: array.astype(kinds[n], copy=False) for n, array in feeds.items() if n in kinds}
    result: NDArray[np.float32] = model.run(given)[model.outputs[0].name]
    return result
