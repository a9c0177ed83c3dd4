"""Folders as Optimum exports them: every row of a step against ONNX Runtime on its own prefix."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import engine
from engine.compiler import CompileRequest, compile_model
from engine.external_files import TICK_NS
from engine.generation.seq2seq import LoadedSeq2Seq
from engine.generation.slots import StepSlots
from engine.passes.step_graph import METADATA
from tests.engine.generation.networks import (
    MERGED,
    POSITIONS,
    SEPARATE,
    VOCABULARY,
    WHOLE,
    Oracle,
    unpack,
)

SIZES = engine.SlotSizes(rows=5, sources=3, source_tokens=12, target_tokens=20)
BIAS = ("t5", "t5_gated_merged")


def tokens(rng: np.random.Generator, count: int) -> list[int]:
    """Return tokens that no family treats as padding or end."""
    return rng.integers(3, VOCABULARY - 2, count).tolist()


def check_rows(slots: StepSlots, oracle: Oracle, seed: int = 0, bound: float = 1e-4) -> None:
    """Feed prefixes of several lengths over several sources, each row at its own pace."""
    rng = np.random.default_rng(seed)
    sentences = [tokens(rng, n) for n in (5, 1, 12)]
    places = [2, 0, 1]
    slots.encode(sentences, places)
    prefixes = [tokens(rng, n) for n in (1, 3, 9, 2, 20)]
    over = [0, 1, 2, 0, 2]
    caches = [3, 1, 4, 0, 2]
    fed = [0] * len(prefixes)
    turn = 0
    while any(done < len(prefix) for done, prefix in zip(fed, prefixes, strict=True)):
        turn += 1
        # The longest goes every time, others now and then, in changing company.
        active = [i for i, p in enumerate(prefixes) if fed[i] < len(p) and (i == 4 or turn % 2)]
        feed(slots, active, prefixes, fed, [places[s] for s in over], caches)
        slots.run(len(active))
        for row, i in enumerate(active):
            fed[i] += 1
            if fed[i] in (1, 2, len(prefixes[i])):
                wanted = oracle.logits(sentences[over[i]], prefixes[i][: fed[i]])
                np.testing.assert_allclose(
                    slots.logits[row], wanted, atol=bound * np.abs(wanted).max()
                )


def feed(
    slots: StepSlots,
    active: Sequence[int],
    prefixes: Sequence[Sequence[int]],
    fed: Sequence[int],
    sources: Sequence[int],
    caches: Sequence[int],
) -> None:
    for row, i in enumerate(active):
        slots.tokens[row, 0] = prefixes[i][fed[i]]
        slots.position[row], slots.source[row] = fed[i], sources[i]
        slots.slot[row] = caches[i]
        slots.history[caches[i], fed[i]] = caches[i]


def slots_of(loaded: LoadedSeq2Seq, sizes: engine.SlotSizes = SIZES) -> StepSlots:
    return loaded._slots(sizes)


@pytest.mark.parametrize("name", [*SEPARATE, *MERGED])
def test_steps_over_caches(name: str, tmp_path: Path) -> None:
    folder = unpack(name, tmp_path)
    loaded = engine.load_seq2seq(folder, device="reference")
    assert loaded.cached and loaded.vocabulary_size == VOCABULARY, loaded.notes
    assert loaded.target_positions == (512 if name in BIAS else POSITIONS)
    assert loaded.source_positions == (None if name in BIAS else POSITIONS)
    assert (", 1 biases" in loaded.notes[-1]) == (name in BIAS)
    check_rows(slots_of(loaded), Oracle(folder))


@pytest.mark.parametrize("name", ["marian_int8"])
def test_steps_are_native(name: str, tmp_path: Path) -> None:
    folder = unpack(name, tmp_path)
    loaded = engine.load_seq2seq(folder, device="cpu")
    slots = slots_of(loaded)
    assert slots.is_native  # type: ignore[attr-defined]
    check_rows(slots, Oracle(folder))


@pytest.mark.parametrize("name", [WHOLE, "marian"])
def test_without_a_cache(name: str, tmp_path: Path) -> None:
    folder = unpack(name, tmp_path)
    (folder / "decoder_with_past_model.onnx").unlink(missing_ok=True)
    loaded = engine.load_seq2seq(folder, device="reference")
    assert not loaded.cached and "whole prefix" in loaded.notes[0]
    assert loaded.target_positions == POSITIONS
    check_rows(slots_of(loaded), Oracle(folder))


def test_the_same_from_a_child(tmp_path: Path) -> None:
    folder = unpack(WHOLE, tmp_path / "onnx").parent
    loaded = engine.load_seq2seq(folder, device="reference", isolate=True)
    check_rows(slots_of(loaded), Oracle(folder / "onnx"))


def test_the_same_from_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, cache = unpack("marian_int8", tmp_path / "net"), tmp_path / "cache"
    time.sleep(2 * TICK_NS / 1e9)  # files written just now are not relied on
    for _ in range(2):
        loaded = engine.load_seq2seq(folder, device="reference", cache_dir=cache)
        check_rows(slots_of(loaded), Oracle(folder))
        monkeypatch.setattr("engine.artifact_compiler.compile_model", None)  # it would fail


def test_greedy_search_goes_through(tmp_path: Path) -> None:
    folder = unpack("marian", tmp_path)
    loaded = engine.load_seq2seq(folder, device="reference")
    decoder = loaded.open(engine.SlotSizes(rows=2, sources=2, target_tokens=1000))
    assert decoder.sizes.target_tokens == decoder.sizes.source_tokens == POSITIONS
    sentence, start = [5, 9, 17, 4], VOCABULARY - 1
    (source,) = decoder.add_sources([sentence])
    handle = decoder.start(source, engine.Search(start=start, end=(), max_new_tokens=6))
    while not decoder.step().done.all():
        pass
    oracle, wanted = Oracle(folder), [start]
    for _ in range(6):
        wanted.append(int(oracle.logits(sentence, wanted).argmax()))
    assert list(decoder.hypotheses(handle)[0].tokens) == wanted[1:]


def test_closing_waits_for_decoders(tmp_path: Path) -> None:
    loaded = engine.load_seq2seq(unpack("mbart", tmp_path), device="reference")
    decoder = loaded.open(SIZES)
    loaded.close()
    assert decoder.add_sources([[5, 6]])  # the encoder still runs
    with pytest.raises(engine.ModelClosed):
        loaded.open(SIZES)
    model = loaded.models["encoder"]
    del decoder
    with pytest.raises(engine.ModelClosed):
        model.run(
            {"input_ids": np.ones((1, 2), np.int64), "attention_mask": np.ones((1, 2), np.int64)}
        )


def test_limits_of_slots(tmp_path: Path) -> None:
    folder = unpack("mbart", tmp_path)
    small = engine.Limits(run_bytes=1 << 20)
    loaded = engine.load_seq2seq(folder, device="reference", limits=small)
    with pytest.raises(engine.ResourceLimit, match="slots of a generation"):
        loaded.open(engine.SlotSizes(rows=1000, sources=1000))
    with pytest.raises(engine.InvalidInput, match="rows: expected 1 or more, got 0"):
        loaded.open(engine.SlotSizes(rows=0))


def test_the_step_graph_is_the_decoder_and_nothing_else(tmp_path: Path) -> None:
    """No shape arithmetic, masks or copies are left: what a step does is what a token needs."""
    path = unpack("marian", tmp_path) / "decoder_with_past_model.onnx"
    graph = compile_model(path, CompileRequest(role="step")).graph
    found = sorted({node.op for node in graph.nodes})
    assert found == [
        "AppendCache", "Elementwise", "Gather", "IndexedAttention", "LayerNormalization",
        "MatMul", "Reshape", "SourceAttention",
    ]  # fmt: skip
    assert [node.op for node in graph.nodes].count("Reshape") == 1  # of the logits
    assert json.loads(graph.metadata[METADATA])["positions"] == POSITIONS
