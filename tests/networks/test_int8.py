"""Networks of floats whose products compute in bytes stay close to their recorded answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import engine
from engine.choosing import computes_in_bytes
from tests.networks.cases import read_cases

FIXTURES = Path(__file__).parent / "fixtures"
NAMES = (
    "albert",
    "bert_dynamo",
    "convnext",
    "deberta",
    "gpt2",
    "llama",
    "lstm",
    "marian_decoder_merged",
    "marian_encoder",
    "mixer",
    "seq2seq_loop",
    "swin",
    "t5_decoder_with_past",
    "vit_int4_blocks",
    "wav2vec2",
    "whisper_encoder",
)


def check(name: str, device: str) -> None:
    path = FIXTURES / f"{name}.onnx"
    with engine.load(path, device=device, precision="int8", threads=1) as model:
        assert computes_in_bytes(model.graph)
        for case in read_cases(path.with_suffix(".npz")):
            results = model.run(case.feeds)
            for output, answer in case.answers.items():
                assert isinstance(answer, np.ndarray)
                if answer.dtype.kind == "f" and answer.size:
                    close(results[output], answer, f"{name}: {output}")


def close(got: np.ndarray, want: np.ndarray, where: str) -> None:
    """Eight bits a side: 3% of the largest value at worst, and the direction all but kept."""
    a, b = got.astype(np.float64).ravel(), want.astype(np.float64).ravel()
    assert np.abs(a - b).max() <= 0.035 * np.abs(b).max(), where
    assert a @ b >= 0.9995 * np.linalg.norm(a) * np.linalg.norm(b), where


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_nearly_those_of_floats(name: str) -> None:
    check(name, "reference")


@pytest.mark.parametrize("device", ["cpu"])
@pytest.mark.parametrize("name", ["marian_encoder", "t5_decoder_with_past"])
def test_native_code_does_as_well(name: str, device: str) -> None:
    check(name, device)
