"""Converts a Hugging Face checkpoint of a Marian model for CTranslate2.

Runs in an environment with torch and transformers: `MILLRACE_TORCH_PYTHON` names its interpreter.
By hand: `python -m benchmarks.translation.convert CHECKPOINT OUT [int8]`.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

END, UNKNOWN, PADDING = "</s>", "<unk>", "<pad>"
NEVER = -1e9


def convert(checkpoint: Path, out: Path, quantization: str | None = None) -> Path:
    """Convert in a process with torch, unless it was done from the same weights before."""
    made = out / "model.bin"
    weights = checkpoint / "model.safetensors"
    if made.exists() and made.stat().st_mtime > weights.stat().st_mtime:
        return out
    python = os.environ.get("MILLRACE_TORCH_PYTHON", sys.executable)
    command = [python, "-m", "benchmarks.translation.convert", str(checkpoint), str(out)]
    subprocess.run([*command, *([quantization] if quantization else [])], check=True)
    return out


def vocabulary_of(checkpoint: Path) -> list[str]:
    """Return the tokens by number; the padding is the last one."""
    numbers: dict[str, int] = json.loads((checkpoint / "vocab.json").read_text(encoding="utf-8"))
    tokens = sorted(numbers, key=lambda token: numbers[token])
    if [numbers[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError(f"{checkpoint}: expected tokens numbered from 0 on without gaps")
    if tokens[-1] != PADDING:
        raise ValueError(f"{checkpoint}: expected {PADDING} as the last token, got {tokens[-1]!r}")
    return tokens


def _convert_here(checkpoint: Path, out: Path, quantization: str | None) -> None:
    # Libraries of that environment alone.
    transformers: Any = importlib.import_module("transformers")
    loaders: Any = importlib.import_module("ctranslate2.converters.transformers")
    model = transformers.MarianMTModel.from_pretrained(checkpoint).eval()
    tokens = vocabulary_of(checkpoint)
    # Its padding begins every translation and must not come up in one.
    model.final_logits_bias[0, len(tokens) - 1] = NEVER
    spec = _marian_loader(loaders.MarianMTLoader).get_model_spec(model)
    spec.register_source_vocabulary(tokens)
    spec.register_target_vocabulary(tokens)
    spec.config.unk_token, spec.config.eos_token = UNKNOWN, END
    spec.config.decoder_start_token = PADDING
    spec.config.add_source_eos = False
    spec.validate()
    spec.optimize(quantization=quantization)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    spec.save(str(out))


def _marian_loader(base: Any) -> Any:
    """Return CTranslate2's loader without what it takes for granted: that the padding, which
    begins every translation, is embedded as zeros.
    """

    class Loader(base):  # type: ignore[misc]
        def _remove_pad_weights(self, spec: Any) -> None:
            pass

        def set_decoder(self, spec: Any, decoder: Any) -> None:
            super().set_decoder(spec, decoder)
            spec.start_from_zero_embedding = False

    return Loader()


if __name__ == "__main__":
    _convert_here(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else None)
