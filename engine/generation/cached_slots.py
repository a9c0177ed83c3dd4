"""Slots of a model with a step graph: keys and values in static caches, a step as one run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.device import TailStep
from engine.errors import ResourceLimit
from engine.generation.alignment import SourceLooks
from engine.generation.encoding import encode
from engine.generation.search import SlotSizes
from engine.limits import Limits
from engine.passes.cache_names import ENCODED, LOGITS
from engine.passes.step_graph import METADATA
from engine.session import Model, TensorSpec


@dataclass(frozen=True)
class CachedParts:
    """What decodes with caches: encoder, keys and values of sources, and the step."""

    encoder: Model
    cross: Model
    step: Model


class CachedSlots:
    """`StepSlots` over the step graph's own static arrays."""

    def __init__(self, parts: CachedParts, sizes: SlotSizes, limits: Limits) -> None:
        named = {
            "N": sizes.rows,
            "R": sizes.rows,
            "T": sizes.target_tokens,
            "S": sizes.sources,
            "M": sizes.source_tokens,
        }
        _check_bytes(parts.step, named, limits)
        self._parts, self._most = parts, sizes.source_tokens
        names = [spec.name for spec in parts.step.inputs if spec.name.startswith("past.")]
        state = {name: "present" + name.removeprefix("past") for name in names}
        self._slots = parts.step.bind(named, rows="N", state=state)
        arrays = self._slots.inputs
        self.tokens, self.position, self.slot = (arrays[n] for n in ("tokens", "position", "slot"))
        self.source, self.history = arrays["source"], arrays["history"]
        self._lengths = arrays["source_length"]
        self._cross = {spec.name: arrays[spec.name] for spec in parts.cross.outputs}
        self.logits: NDArray[np.float32] = self._slots.outputs[LOGITS]
        self.vocabulary_size = int(self.logits.shape[1])
        self.looks = self._source_looks()

    @property
    def is_native(self) -> bool:
        """Whether a step is one call of native code."""
        return self._slots.is_native

    def encode(self, sentences: Sequence[Sequence[int]], sources: Sequence[int]) -> None:
        """Encode sentences in one batch into these source slots."""
        for numbers, states in encode(self._parts.encoder, sentences, self._most):
            found = self._parts.cross.run({ENCODED: states})
            for row, number in enumerate(numbers):
                source, length = sources[number], len(sentences[number])
                for name, into in self._cross.items():
                    into[source, :length] = found[name][row, :length]
                self._lengths[source] = length

    def _source_looks(self) -> SourceLooks | None:
        """Return how the last layer looks at the source."""
        layers = json.loads(self._parts.step.metadata[METADATA]).get("looks")
        if not layers:
            return None
        last, inputs, outputs = layers[-1], self._slots.inputs, self._slots.outputs
        queries, keys = outputs[last["query"]], inputs[last["key"]]
        return SourceLooks(queries, keys, self._lengths, last["heads"], last["scale"])

    def run(self, rows: int) -> None:
        """Feed the first rows of the batch."""
        self._slots.run(rows)

    def append_tail(self, steps: Sequence[tuple[Any, Sequence[NDArray[Any]]]]) -> bool:
        """Run kernels over the same rows after every step, where the step is native code."""
        return self._slots.append_tail([TailStep(kernel, arrays) for kernel, arrays in steps])

    def memory_bytes(self) -> int:
        """Return the size of the static memory."""
        return self._slots.memory_bytes()

    def close(self) -> None:
        """Free it."""
        self._slots.close()


def _check_bytes(step: Model, sizes: Mapping[str, int], limits: Limits) -> None:
    """Refuse slots that are larger than a run may be, before anything is allocated."""
    need = sum(_bytes(spec, sizes) for spec in (*step.inputs, step.outputs[0]))
    if need > limits.effective_run_bytes:
        limit = f"run_bytes={limits.effective_run_bytes}"
        raise ResourceLimit("slots of a generation", f"{need} bytes", limit)


def _bytes(spec: TensorSpec, sizes: Mapping[str, int]) -> int:
    dims = (sizes[d] if isinstance(d, str) else d for d in spec.shape or ())
    return prod(dims) * np.dtype(spec.dtype).itemsize
