"""The files of an encoder-decoder: which of a folder's hold which parts.

Layouts that Hugging Face Optimum writes, at the top of a folder or in its `onnx/`:

    encoder_model.onnx, decoder_model.onnx, decoder_with_past_model.onnx
    encoder_model.onnx, decoder_model_merged.onnx     the last two in one, by use_cache_branch
    encoder_model.onnx, decoder_model.onnx            no cache
    model.onnx                                        encoder and decoder in one graph, no cache
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.errors import InvalidModel

ENCODER, DECODER = "encoder_model.onnx", "decoder_model.onnx"
WITH_PAST, MERGED, WHOLE = (
    "decoder_with_past_model.onnx",
    "decoder_model_merged.onnx",
    "model.onnx",
)
SUBFOLDER: Final = "onnx"


@dataclass(frozen=True)
class Files:
    """What each part is made of; None where the folder has nothing for it.

    Attributes:
        folder: Where they were looked for.
        encoder: Encodes sources.
        prefix: Decodes whole prefixes, and gives keys and values of sources.
        step: Decodes one token behind a past; may be the same file.
        whole: Does all at once.
    """

    folder: Path
    encoder: Path | None = None
    prefix: Path | None = None
    step: Path | None = None
    whole: Path | None = None


def find_files(folder: str | os.PathLike[str]) -> Files:
    """Return the files of a folder.

    Raises:
        InvalidModel: They are no encoder-decoder.
    """
    top = Path(folder)
    if not top.is_dir():
        raise InvalidModel(f"{top.name!r} is no folder; expected one of an encoder-decoder")
    for place in (top, top / SUBFOLDER):
        found = _files_of(top, place)
        if found is not None:
            return found
    present = sorted(path.name for path in (*top.glob("*.onnx"), *top.glob(f"{SUBFOLDER}/*.onnx")))
    raise InvalidModel(
        f"folder {top.name!r} holds {present or 'no .onnx file'}; expected {ENCODER} with "
        f"{DECODER} and {WITH_PAST}, or with {MERGED}, or {WHOLE} with encoder and decoder"
    )


def _files_of(top: Path, place: Path) -> Files | None:
    names = (ENCODER, DECODER, WITH_PAST, MERGED, WHOLE)
    encoder, decoder, past, merged, whole = (
        place / name if (place / name).is_file() else None for name in names
    )
    if encoder is not None and (decoder is not None or merged is not None):
        return Files(top, encoder, decoder or merged, past if decoder and past else merged)
    if whole is not None and encoder is None:
        return Files(top, whole=whole)
    return None
