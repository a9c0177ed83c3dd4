"""The engine's words for text generation, for the parts of the server that may not know it."""

from __future__ import annotations

from engine import Decoder, Hypothesis, Search, Seq2Seq, SlotSizes, StepResult

__all__ = ["Decoder", "Hypothesis", "Search", "Seq2Seq", "SlotSizes", "StepResult"]
