"""Searches over networks that Optimum exported equal Hugging Face's `generate` on their weights."""

from __future__ import annotations

import importlib.metadata
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

import engine
from engine.generation.search import Hypothesis, Search, SlotSizes
from tests.engine.generation.network_settings import NETWORK_SETTINGS, SENTENCES

HERE = Path(__file__).parent
EXPECTED: dict[str, Any] = json.loads((HERE / "expected_networks.json").read_text())
SIZES = SlotSizes(rows=40, sources=len(SENTENCES), source_tokens=12, target_tokens=20)


def search_all(
    decoder: engine.Decoder, start: int, settings: list[str]
) -> dict[str, list[list[Hypothesis]]]:
    """Search over all sentences with all settings, as many at a time as there is room for."""
    sources = decoder.add_sources(SENTENCES)
    waiting = [(name, number) for name in settings for number in range(len(SENTENCES))]
    running: dict[int, tuple[str, int]] = {}
    found: dict[str, dict[int, list[Hypothesis]]] = {name: {} for name in settings}
    while waiting or running:
        while waiting and NETWORK_SETTINGS[waiting[-1][0]].get("beams", 1) <= decoder.free_rows:
            name, number = waiting.pop()
            asked = Search(start=start, **NETWORK_SETTINGS[name])
            running[decoder.start(sources[number], asked)] = name, number
        result = decoder.step()
        for handle in result.searches[result.done].tolist():
            name, number = running.pop(handle)
            found[name][number] = decoder.hypotheses(handle)
            decoder.release(handle)
    return {name: [answers[k] for k in sorted(answers)] for name, answers in found.items()}


def compare(name: str, device: str, folder: Path, settings: list[str]) -> bool:
    """Search on a device; return whether its steps were native code."""
    with zipfile.ZipFile(HERE / "fixtures" / f"{name}.zip") as archive:
        archive.extractall(folder)
    expected = EXPECTED[name]
    model = engine.load_seq2seq(folder, device=device, threads=1)
    decoder = model.open(SIZES)
    for asked, found in search_all(decoder, expected["start"], settings).items():
        for hypotheses, answer in zip(found, expected["answers"][asked], strict=True):
            tokens = [list(one.tokens) for one in hypotheses]
            assert tokens == [tokens for tokens, _ in answer], asked
            for one, (_, score) in zip(hypotheses, answer, strict=True):
                if score is not None:
                    assert one.score == pytest.approx(score, rel=1e-4, abs=1e-4)
    return bool(getattr(decoder, "is_native", False))


@pytest.mark.parametrize("name", EXPECTED)
def test_native_searches_equal_hugging_face(name: str, tmp_path: Path) -> None:
    is_native = compare(name, "cpu", tmp_path, list(NETWORK_SETTINGS))
    assert is_native == (name != "marian_whole")  # which has no cache


@pytest.mark.parametrize("name", ["marian", "marian_whole"])
def test_portable_searches_equal_hugging_face(name: str, tmp_path: Path) -> None:
    assert not compare(name, "reference", tmp_path, ["greedy", "beams 2", "beams 3 penalties"])


def test_sequences_of_many_lengths_are_compared() -> None:
    lengths = {
        len(tokens)
        for network in EXPECTED.values()
        for answers in network["answers"].values()
        for answer in answers
        for tokens, _ in answer
    }
    assert len(lengths) > 10


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def test_what_was_recorded_is_what_hugging_face_answers() -> None:
    versions = {network["transformers"] for network in EXPECTED.values()}
    if not installed("torch") or {installed("transformers")} != versions:
        pytest.skip(f"needs torch and transformers {versions}, which draws the same weights")
    from tests.engine.generation import network_answers

    for name, recorded in EXPECTED.items():
        assert network_answers.answers_of(name) == recorded
