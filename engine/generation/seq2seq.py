"""A loaded encoder-decoder: its parts as models, and decoders over them."""

from __future__ import annotations

import json
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

from engine.errors import InvalidInput, ModelClosed
from engine.generation.cached_slots import CachedParts, CachedSlots
from engine.generation.decoder import StepDecoder
from engine.generation.decoding import Decoder
from engine.generation.prefix_models import PrefixDecoder, WholeModel, vocabulary_of
from engine.generation.recomputing import RecomputingSlots
from engine.generation.search import SlotSizes
from engine.generation.slots import StepSlots
from engine.limits import Limits
from engine.passes.step_graph import METADATA
from engine.session import MemoryReport, Model


@dataclass(frozen=True)
class PrefixParts:
    """What decodes without a cache: encoder and decoder, or one model of both."""

    decoder: Model
    encoder: Model | None = None


Parts = CachedParts | PrefixParts


class LoadedSeq2Seq:
    """`engine.Seq2Seq` over compiled models. Thread-safe.

    Attributes:
        vocabulary_size: Tokens that logits are given for.
        cached: Whether decoding appends to static caches.
        notes: What was recognised, and what was not and why.
        source_positions, target_positions: What the model's tables of positions allow; None where
            no end was found.
    """

    def __init__(self, parts: Parts, notes: Sequence[str], limits: Limits) -> None:
        self._parts, self._limits = parts, limits
        decoder = parts.step if isinstance(parts, CachedParts) else parts.decoder
        self.cached = isinstance(parts, CachedParts)
        self.vocabulary_size = vocabulary_of(decoder)
        self.source_positions = None if parts.encoder is None else _positions(parts.encoder)
        self.target_positions = _positions(decoder)
        self.notes = (*notes, *_notes(decoder))
        self._open = 0
        self._closed = False
        self._lock = Lock()

    @property
    def models(self) -> dict[str, Model]:
        """The models that it is made of, for inspection."""
        parts = self._parts
        if isinstance(parts, CachedParts):
            return {"encoder": parts.encoder, "cross": parts.cross, "step": parts.step}
        encoder = {} if parts.encoder is None else {"encoder": parts.encoder}
        return {**encoder, "decoder": parts.decoder}

    def open(self, sizes: SlotSizes) -> Decoder:
        """Make a decoder with slots of its own; its `sizes` are no larger than the model allows.

        Raises:
            InvalidInput: A size is less than 1.
            ResourceLimit: The slots need more memory than a run may.
            ModelClosed: It was closed before.
        """
        fitting = _fitting(sizes, self.source_positions, self.target_positions)
        with self._lock:
            if self._closed:
                raise ModelClosed("the model is closed; load it again")
            self._open += 1
        try:
            slots = self._slots(fitting)
            decoder = StepDecoder(slots, fitting)
        except BaseException:
            self._leave()
            raise
        weakref.finalize(decoder, self._leave)
        return decoder

    def memory(self) -> MemoryReport:
        """Return what the models hold, decoders apart."""
        found = [model.memory() for model in self.models.values()]
        return MemoryReport(
            sum(each.weights_bytes for each in found),
            sum(each.arena_bytes for each in found),
            sum(each.code_bytes for each in found),
            max(each.scratch_bytes for each in found),
        )

    def close(self) -> None:
        """Refuse new decoders, and free everything once those that are open are gone."""
        with self._lock:
            self._closed = True
            idle = not self._open
        if idle:
            self._free()

    def _slots(self, sizes: SlotSizes) -> StepSlots:
        parts = self._parts
        if isinstance(parts, CachedParts):
            return CachedSlots(parts, sizes, self._limits)
        if parts.encoder is None:
            return RecomputingSlots(WholeModel(parts.decoder), sizes)
        return RecomputingSlots(PrefixDecoder(parts.encoder, parts.decoder), sizes)

    def _leave(self) -> None:
        with self._lock:
            self._open -= 1
            last = self._closed and not self._open
        if last:
            self._free()

    def _free(self) -> None:
        for model in self.models.values():
            model.close()


def _facts(model: Model) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads(model.metadata[METADATA])
    return facts


def _positions(model: Model) -> int | None:
    found: int | None = _facts(model)["positions"]
    return found


def _notes(model: Model) -> list[str]:
    notes: list[str] = _facts(model).get("notes", [])
    return notes


def _fitting(sizes: SlotSizes, source: int | None, target: int | None) -> SlotSizes:
    for name in ("rows", "sources", "source_tokens", "target_tokens"):
        if getattr(sizes, name) < 1:
            raise InvalidInput(f"{name}: expected 1 or more, got {getattr(sizes, name)}")
    return replace(
        sizes,
        source_tokens=min(sizes.source_tokens, source or sizes.source_tokens),
        target_tokens=min(sizes.target_tokens, target or sizes.target_tokens),
    )
