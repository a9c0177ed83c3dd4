"""Searches over the shipped translation model equal Hugging Face's `generate` on its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.generation.search import Search, SlotSizes
from tests.engine.generation.trained_answers import EXPECTED, SETTINGS, WEIGHTS, digest

ROOT = Path(__file__).resolve().parents[3]
MODEL = ROOT / "model_repo" / "translate-de-en"
SIZES = SlotSizes(rows=40, sources=8, source_tokens=40, target_tokens=52)


def compare(version: Path, recorded: dict[str, Any]) -> int:
    """Search with all settings; return how many answers were compared."""
    model = engine.load_seq2seq(version, device="cpu", threads=1)
    decoder = model.open(SIZES)
    start, end = recorded["specials"]["start"], recorded["specials"]["end"]
    sources = decoder.add_sources(recorded["sentences"])
    compared = 0
    for name, changes in SETTINGS.items():
        handles = [
            decoder.start(source, Search(start=start, end=(end,), **changes)) for source in sources
        ]
        while decoder.step().searches.size:
            pass
        for handle, answer in zip(handles, recorded["answers"][name], strict=True):
            found = [list(one.tokens) for one in decoder.hypotheses(handle)]
            assert found == [tokens for tokens, _ in answer], name
            decoder.release(handle)
            compared += 1
    return compared


def test_shipped_versions_equal_hugging_face() -> None:
    versions = sorted(path.parent for path in MODEL.glob(f"[!.]*/{WEIGHTS}"))
    if not versions:
        pytest.skip(f"{MODEL} ships no version")
    known = json.loads(EXPECTED.read_text())
    for version in versions:
        recorded = known.get(digest(version))
        assert recorded, (
            f"{version}: no answers are recorded for its weights; add them with "
            "`python -m tests.engine.generation.trained_answers CHECKPOINT VERSION`"
        )
        assert compare(version, recorded) == len(SETTINGS) * len(recorded["sentences"])
