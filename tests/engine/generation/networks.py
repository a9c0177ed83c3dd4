"""The tiny encoder-decoders of `fixtures/`, and what ONNX Runtime makes of them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import onnxruntime as ort

FIXTURES = Path(__file__).with_name("fixtures")
SEPARATE = ("marian", "marian_int8", "marian_merged_heads", "t5", "mbart", "m2m100")
MERGED = ("marian_eager_merged", "t5_gated_merged")
WHOLE = "marian_whole"
VOCABULARY, POSITIONS = 61, 24


def unpack(name: str, folder: Path) -> Path:
    """Write a network's files into a folder; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(FIXTURES / f"{name}.zip") as archive:
        archive.extractall(folder)
    return folder


class Oracle:
    """ONNX Runtime on the same files, without a cache: every prefix from its start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def decoder(self) -> ort.InferenceSession:
        """The decoder without past, or the merged one, or all in one."""
        names = ("decoder_model.onnx", "decoder_model_merged.onnx", "model.onnx")
        return _session(next(self.folder / n for n in names if (self.folder / n).exists()))

    @cache  # noqa: B019  # lives as long as a test
    def encoded(self, sentence: tuple[int, ...]) -> np.ndarray:
        """Return the states (1, m, d) of a sentence."""
        feeds = {"input_ids": [sentence], "attention_mask": [[1] * len(sentence)]}
        session = _session(self.folder / "encoder_model.onnx")
        found: np.ndarray = session.run(None, _fed(session, feeds))[0]
        return found

    def logits(self, sentence: Sequence[int], prefix: Sequence[int]) -> np.ndarray:
        """Return the logits (v) of what follows a prefix."""
        ones = [[1] * len(sentence)]
        feeds: dict[str, object] = {
            "decoder_input_ids": [prefix],
            "decoder_attention_mask": [[1] * len(prefix)],
            "attention_mask": ones,
            "encoder_attention_mask": ones,
            "input_ids": [prefix],
            "use_cache_branch": [False],
        }
        if (self.folder / "encoder_model.onnx").exists():
            feeds["encoder_hidden_states"] = self.encoded(tuple(sentence))
        else:
            feeds["input_ids"] = [sentence]
        for value in self.decoder.get_inputs():
            if value.name.startswith("past"):
                shape = [d if isinstance(d, int) else 1 for d in value.shape]
                feeds[value.name] = np.zeros(shape, np.float32)
        found: np.ndarray = self.decoder.run(["logits"], _fed(self.decoder, feeds))[0]
        return found[0, -1]


def _session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _fed(session: ort.InferenceSession, feeds: dict[str, object]) -> dict[str, np.ndarray]:
    kinds = {"tensor(bool)": np.bool_, "tensor(float)": np.float32}
    return {
        value.name: np.asarray(feeds[value.name], kinds.get(value.type, np.int64))
        for value in session.get_inputs()
    }
