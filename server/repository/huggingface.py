"""Read what a Hugging Face export says about itself, in `model.toml`'s terms. Pure.

`config.json` names the classes and the kind of problem; `preprocessor_config.json` says how a
picture becomes a tensor. Both have grown over the years: sizes are integers or tables, and what an
integer means depends on the processor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
# Encoder-decoders that read something else than text.
NOT_TEXT = ("audio", "speech", "whisper", "vision", "moonshine", "pix2struct", "trocr", "donut")
LEGACY_CROP_FREE_EDGE = 384  # from this size on, `crop_pct` processors resize without cropping

Json = Mapping[str, Any]


class ProcessorInvalid(ValueError):
    """A Hugging Face file says something that cannot be followed; the message names the key."""


def preprocess_section(processor: Json) -> dict[str, Any]:
    """Turn a `preprocessor_config.json` into a `[preprocess]` section.

    Raises:
        ProcessorInvalid: a key has a form that is not known.
    """
    section: dict[str, Any] = {}
    if processor.get("do_resize", True) and "size" in processor:
        section |= _resize(processor)
    if processor.get("do_center_crop", False):
        crop = processor.get("crop_size", processor.get("size"))
        section["crop"] = _height_width("crop_size", crop)
    code = processor.get("resample")
    if code is not None:
        if code not in RESAMPLE:
            raise ProcessorInvalid(f"resample: expected a code of 0 to 5, got {code!r}")
        section["resample"] = RESAMPLE[code]
    return section | _normalization(processor)


def _resize(processor: Json) -> dict[str, Any]:
    size = processor["size"]
    if isinstance(size, Mapping) and "shortest_edge" not in size:
        return {"resize": _height_width("size", size)}
    edge = _edge("size", size["shortest_edge"] if isinstance(size, Mapping) else size)
    if "crop_pct" in processor:
        return _resize_and_crop(edge, processor["crop_pct"])
    # A bare number is the short side where a crop follows, and the whole picture where none does.
    if isinstance(size, Mapping) or processor.get("do_center_crop", False):
        return {"resize_short": edge}
    return {"resize": (edge, edge)}


def _resize_and_crop(edge: int, crop_pct: Any) -> dict[str, Any]:
    if edge >= LEGACY_CROP_FREE_EDGE:
        return {"resize": (edge, edge)}
    if not isinstance(crop_pct, int | float) or not 0 < crop_pct <= 1:
        raise ProcessorInvalid(f"crop_pct: expected a number from 0 to 1, got {crop_pct!r}")
    return {"resize_short": int(edge / crop_pct), "crop": (edge, edge)}


def _height_width(key: str, size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        if "height" in size and "width" in size:
            return _edge(key, size["height"]), _edge(key, size["width"])
        if "shortest_edge" in size:
            size = size["shortest_edge"]
    edge = _edge(key, size)
    return edge, edge


def _edge(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ProcessorInvalid(
            f'{key}: expected a number, {{"shortest_edge"}} or {{"height", "width"}}, got {value!r}'
        )
    return value


def _normalization(processor: Json) -> dict[str, Any]:
    rescales = processor.get("do_rescale", True)
    mean, std = [0.0], [1.0]
    if processor.get("do_normalize", False):
        mean = _numbers("image_mean", processor.get("image_mean", mean))
        std = _numbers("image_std", processor.get("image_std", std))
    if rescales and processor.get("rescale_offset", False):
        mean = [1.0 + value for value in mean]  # (x * scale - 1 - mean) / std
    scale = processor.get("rescale_factor", 1.0 / 255.0) if rescales else 1.0
    return {"scale": scale, "mean": tuple(mean), "std": tuple(std)}


def _numbers(key: str, values: Any) -> list[float]:
    if not isinstance(values, list) or not all(isinstance(v, int | float) for v in values):
        raise ProcessorInvalid(f"{key}: expected a list of numbers, got {values!r}")
    return [float(value) for value in values]


def model_sections(config: Json) -> dict[str, Any]:
    """Return what a `config.json` says about the task, as parts of a `model.toml`."""
    sections: dict[str, Any] = {}
    architectures = config.get("architectures") or []
    if any(str(name).endswith("ForImageClassification") for name in architectures):
        sections["task"] = "classification"
    if config.get("is_encoder_decoder") is True and _reads_text(config):
        sections["task"] = "translation"
    if config.get("problem_type") == "multi_label_classification":
        sections["classification"] = {"multi_label": True}
    return sections


def _reads_text(config: Json) -> bool:
    kind = f"{config.get('model_type', '')} {config.get('architectures', '')}".lower()
    return not any(word in kind for word in NOT_TEXT)


def class_names(config: Json) -> tuple[str, ...] | None:
    """Return the class names of a `config.json` in index order, or None when it has none."""
    names = config.get("id2label")
    if not isinstance(names, Mapping) or not names:
        return None
    try:
        by_index = {int(index): str(name) for index, name in names.items()}
    except ValueError as error:
        raise ProcessorInvalid(f"id2label: expected numbers as keys: {error}") from error
    if sorted(by_index) != list(range(len(by_index))):
        raise ProcessorInvalid(f"id2label: expected the keys 0 to {len(by_index) - 1}")
    return tuple(by_index[index] for index in range(len(by_index)))
