"""Where translations come from: the weights of the last layer's attention to the source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import engine
from engine.generation.alignment import SourceLooks
from tests.engine.generation.networks import Oracle, _fed, _session, unpack

SIZES = engine.SlotSizes(rows=12, sources=3, source_tokens=12, target_tokens=20)
SENTENCES = [[7, 12, 30, 9, 4], [22], list(range(3, 15))]
SETTINGS = ({}, {"beams": 3, "n_best": 3}, {"beams": 2, "early_stopping": True}, {"sample": True})


class Opened:
    """ONNX Runtime on a decoder whose last attention to the source can be seen."""

    def __init__(self, folder: Path) -> None:
        model = onnx.load(folder / "decoder_model.onnx")
        nodes = model.graph.node
        self.last = [node.output[0] for node in nodes if node.op_type == "Softmax"][-1]
        model.graph.output.append(onnx.ValueInfoProto(name=self.last))
        onnx.save(model, folder / "opened.onnx")
        self.session, self.oracle = _session(folder / "opened.onnx"), Oracle(folder)

    def weights(self, sentence: list[int], fed: list[int]) -> np.ndarray:
        """Return the mean of the heads' weights: (L, M)."""
        feeds: dict[str, object] = {
            "input_ids": [fed],
            "decoder_attention_mask": [[1] * len(fed)],
            "encoder_attention_mask": [[1] * len(sentence)],
            "encoder_hidden_states": self.oracle.encoded(tuple(sentence)),
        }
        found: np.ndarray = self.session.run([self.last], _fed(self.session, feeds))[0]
        return found[0].mean(axis=0)  # of (1, H, L, M)


@pytest.mark.parametrize(
    ("name", "device"),
    [("marian", "reference"), ("marian", "cpu"), ("t5", "cpu"), ("mbart", "cpu")],
)
def test_weights_are_those_of_the_last_layer(name: str, device: str, tmp_path: Path) -> None:
    folder = unpack(name, tmp_path)
    decoder = engine.load_seq2seq(folder, device=device).open(SIZES)
    assert decoder.aligns
    opened = Opened(folder)
    sources = decoder.add_sources(SENTENCES)
    for setting in SETTINGS:
        common = {"start": 60, "end": (0,), "max_new_tokens": 9, **setting}
        asked = engine.Search(**common, alignment=True)
        # Others come first and beside it, so that rows of the batch are not those of the caches.
        others = [decoder.start(sources[0], engine.Search(**common)) for _ in range(2)]
        decoder.step()
        handles = {decoder.start(source, asked): k for k, source in enumerate(sources[1:], 1)}
        decoder.release(others.pop(0))
        while not decoder.step().done.all():
            pass
        assert all(found.alignment is None for found in decoder.hypotheses(others[0]))
        decoder.release(others[0])
        for handle, k in handles.items():
            hypotheses = decoder.hypotheses(handle)
            for found in hypotheses:
                assert found.alignment is not None and len(found.alignment) == len(found.tokens)
                wanted = opened.weights(SENTENCES[k], [60, *found.tokens[:-1]])
                np.testing.assert_allclose(found.alignment, wanted, atol=2e-4)
            decoder.release(handle)


def test_asking_changes_nothing_else(tmp_path: Path) -> None:
    decoder = engine.load_seq2seq(unpack("marian", tmp_path), device="reference").open(SIZES)
    [source] = decoder.add_sources(SENTENCES[:1])
    found = []
    for alignment in (False, True):
        search = engine.Search(60, (0,), 12, beams=4, n_best=4, alignment=alignment)
        handle = decoder.start(source, search)
        while not decoder.step().done.all():
            pass
        found.append([(each.tokens, each.score) for each in decoder.hypotheses(handle)])
        decoder.release(handle)
    assert found[0] == found[1]


def test_running_searches_tell_what_they_have(tmp_path: Path) -> None:
    decoder = engine.load_seq2seq(unpack("marian", tmp_path), device="reference").open(SIZES)
    [source] = decoder.add_sources(SENTENCES[:1])
    handle = decoder.start(source, engine.Search(60, (0,), 12, min_new_tokens=8, alignment=True))
    decoder.step()
    decoder.step()
    [found] = decoder.hypotheses(handle)
    assert found.alignment is not None
    assert np.shape(found.alignment) == (2, 5)
    np.testing.assert_allclose(np.sum(found.alignment, axis=1), 1, atol=1e-3)


def test_models_without_caches_refuse(tmp_path: Path) -> None:
    folder = unpack("marian", tmp_path)
    (folder / "decoder_with_past_model.onnx").unlink()
    decoder = engine.load_seq2seq(folder, device="reference").open(SIZES)
    assert not decoder.aligns
    [source] = decoder.add_sources(SENTENCES[:1])
    free = decoder.free_rows
    with pytest.raises(engine.InvalidInput, match="alignment"):
        decoder.start(source, engine.Search(60, (0,), 5, alignment=True))
    assert decoder.free_rows == free


def test_large_scores_do_not_overflow() -> None:
    keys = np.zeros((1, 3, 4), np.float32)
    keys[0, 1] = 1e4
    looks = SourceLooks(np.zeros((1, 1, 4), np.float32), keys, np.array([2]), 2, 1.0)
    weights = looks.weights(np.full((1, 4), 1e4, np.float32), 0)
    np.testing.assert_array_equal(weights, [[0.0, 1.0]])
