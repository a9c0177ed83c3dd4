"""The native search against its definition in numpy: the same decisions, whatever the settings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.cpu.kernels import search_records, top_candidates
from engine.cpu.kernels.beam_update import OPERANDS, BeamUpdate
from engine.cpu.kernels.top_candidates import TopCandidates
from engine.cpu.native import compile_kernel
from engine.cpu.tails import TAILS
from engine.cpu.target import ISAS, target_for
from engine.generation import native, state
from engine.generation.decoder import StepDecoder
from engine.generation.recomputing import RecomputingSlots
from engine.generation.search import Search, SlotSizes
from engine.generation.selection import RowRules, choose
from engine.generation.state import SearchState
from tests.engine.cpu.harness import run_kernel
from tests.engine.generation.native_slots import NativeSlots
from tests.engine.generation.settings_table import SETTINGS
from tests.engine.generation.toy import END, START, Tables, ToyModel

SIZES = SlotSizes(rows=24, sources=6, source_tokens=1, target_tokens=32)


def decoder_pair(seed: int, vocabulary: int = 60) -> tuple[StepDecoder, StepDecoder]:
    """A decoder whose search is native, and one whose search is numpy."""
    tables = Tables(vocabulary, 8, seed, 1.0)
    with_code = StepDecoder(NativeSlots(ToyModel(tables), SIZES), SIZES)
    portable = StepDecoder(RecomputingSlots(ToyModel(tables), SIZES), SIZES)
    assert with_code.is_native
    assert not portable.is_native
    return with_code, portable


def search(changes: dict[str, Any]) -> Search:
    return Search(**{"start": START, "end": (END,), "max_new_tokens": 20, **changes})


def assert_same_state(first: StepDecoder, second: StepDecoder) -> None:
    """Compare what the two know: decisions to the bit, sums to rounding."""
    one, two = first._state, second._state
    np.testing.assert_array_equal(one.numbers[:, state.LENGTH], two.numbers[:, state.LENGTH])
    for column in (state.DONE, state.TOKEN):
        np.testing.assert_array_equal(one.numbers[:, column], two.numbers[:, column])
    for name in ("token_at", "pool_length", "pool_token", "pool_history"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)
    np.testing.assert_array_equal(one.slots.history, two.slots.history)
    for name in ("score", "pool_score", "value_at", "pool_value"):
        mine, other = getattr(one, name), getattr(two, name)
        np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_every_setting_side_by_side(seed: int) -> None:
    """Searches with all settings come and go; after each step both know the same."""
    rng = np.random.default_rng(seed)
    pair = decoder_pair(seed)
    sources = [one.add_sources([[k] for k in range(6)]) for one in pair]
    assert sources[0] == sources[1]
    waiting = [SETTINGS[name] for name in rng.permutation(list(SETTINGS))]
    waiting += [{"sample": True, "seed": k, "top_k": 5, "forced_first": 9} for k in range(3)]
    running: list[int] = []
    while waiting or running:
        while waiting and waiting[-1].get("beams", 1) <= pair[0].free_rows:
            changes, source = waiting.pop(), sources[0][rng.integers(6)]
            handles = [one.start(source, search(changes)) for one in pair]
            assert handles[0] == handles[1]
            running.append(handles[0])
        mine, other = (one.step() for one in pair)
        np.testing.assert_array_equal(mine.searches, other.searches)
        np.testing.assert_array_equal(mine.tokens, other.tokens)
        np.testing.assert_array_equal(mine.done, other.done)
        assert_same_state(*pair)
        for handle in mine.searches[mine.done].tolist():
            found, expected = (one.hypotheses(handle) for one in pair)
            assert [h.tokens for h in found] == [h.tokens for h in expected]
            assert [h.finished for h in found] == [h.finished for h in expected]
            for one in pair:
                one.release(handle)
            running.remove(handle)


def test_logits_that_are_no_numbers_end_their_search_alone() -> None:
    one, _ = decoder_pair(0)
    one._slots.model.tables.source[1, 7] = np.nan  # type: ignore[attr-defined]
    one._slots.model.tables.source[2, 7] = np.inf  # type: ignore[attr-defined]
    sources = one.add_sources([[0], [1], [2]])
    for source in sources:
        one.start(source, search({"beams": 2}))
        one.start(source, search({}))
    assert one.step().done.tolist() == [False, False, True, True, True, True]


def candidates(logits: np.ndarray, keep: int, **numbers: int) -> tuple[Any, Any, SearchState]:
    """Return the candidates of native code and of numpy, and the state they are of."""
    rows, width = logits.shape
    sizes = SlotSizes(rows=rows, sources=1, source_tokens=1, target_tokens=4)
    slots = RecomputingSlots(ToyModel(Tables(4, 1, 0, 0.0)), sizes)
    slots.vocabulary_size, slots.logits = width, logits.copy()
    known = SearchState(slots)
    known.numbers[:, state.KEEP] = keep
    known.numbers[:, state.BEAMS] = 2
    for name in ("FIRST", "LAST"):
        known.numbers[:, getattr(state, name)] = -1
    known.owner[:] = np.arange(rows)
    found = run_kernel(
        TopCandidates(), native.candidate_arrays(known), numbers=[rows], tasks=rows, writes=5
    )
    none = np.empty(0, np.int32)
    for row in range(rows):
        choose(known, row, RowRules(row, True, none, none, none, none))
    return found[:2], (known.token, known.value), known


@pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 63, 64, 65, 257, 1000])
@pytest.mark.parametrize("keep", [1, 4, 10, 128])
def test_candidates_of_any_vocabulary(width: int, keep: int) -> None:
    rng = np.random.default_rng(width)
    logits = rng.standard_normal((5, width)).astype(np.float32) * 10
    logits[1] = np.round(logits[1])  # many are equal
    logits[2, rng.random(width) < 0.5] = -np.inf
    logits[3] = np.sort(logits[3])  # each is better than all before
    logits[4] = 3.0
    (token, value), (expected, log_probability), _ = candidates(logits, keep)
    np.testing.assert_array_equal(token[:, :keep], expected[:, :keep])
    given, wanted = value[:, :keep], log_probability[:, :keep]
    np.testing.assert_allclose(given, wanted, rtol=1e-6, atol=4e-6)


def test_columns_and_operands_agree() -> None:
    """The two descriptions of the arrays, one on each side of the device, are the same."""
    names = (name for name in vars(search_records) if name.isupper() and hasattr(state, name))
    shared = {name: getattr(state, name) for name in names}
    assert len(shared) == 19
    assert shared == {name: getattr(search_records, name) for name in shared}
    for name in ("PENALIZED", "PENALIZED_COUNT", "BANNED", "BANNED_COUNT"):
        assert getattr(top_candidates, name) == getattr(state, name)
    known = SearchState(RecomputingSlots(ToyModel(Tables(9, 1, 0, 0.0)), SIZES))
    for name, array in zip(OPERANDS, native.update_arrays(known), strict=True):
        assert array is getattr(known, name, None) or array is getattr(known.slots, name)


@pytest.mark.parametrize("beams", [1, 2, 5])
@pytest.mark.parametrize("pieces", [1, 3])
def test_searches_touch_nothing_else(beams: int, pieces: int) -> None:
    """No byte around an array changes, also where a search uses all of its room."""
    searches, positions, rng = 3, 9, np.random.default_rng(beams)
    rows = searches * beams
    sizes = SlotSizes(rows=rows, sources=1, source_tokens=1, target_tokens=positions)
    decoder = StepDecoder(RecomputingSlots(ToyModel(Tables(30, 1, 0, 0.0)), sizes), sizes)
    source = decoder.add_sources([[0]])[0]
    for number in range(searches):
        length = positions - 1 - number
        decoder.start(source, search({"beams": beams, "max_new_tokens": length, "end": (1, 2)}))
    for _ in range(positions - 2):
        decoder.step()
    known = decoder._state
    known.token[:] = rng.integers(0, 30, known.token.shape)
    known.value[:] = -np.sort(rng.random(known.value.shape, np.float32) * 20)
    arrays = native.update_arrays(known)
    found = run_kernel(BeamUpdate(), arrays, numbers=[rows], tasks=rows, writes=13, pieces=pieces)
    assert set(found[0][:, state.DONE].tolist()) >= {1}
    assert (found[0][:, state.LENGTH] >= known.numbers[:, state.LENGTH]).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("name", TAILS)
def test_compiles_for_every_processor(isa: str, name: str) -> None:
    assert compile_kernel(TAILS[name], "kernel", target_for(isa))
