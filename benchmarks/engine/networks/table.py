"""Which networks there are, and what one row of the figures feeds them. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ALL = ("*",)
# A quantized sum of scores and mask, whose lowest value is that of float32, would leave no scores.
PRODUCTS = ("Conv", "Gemm", "MatMul")

Array = NDArray[np.generic]
Feeds = dict[str, Array]


@dataclass(frozen=True)
class Network:
    """A network that is measured.

    Attributes:
        title: What people call it.
        module: Of this package, with a function of the network's name that builds it.
        feeds: Random inputs for a batch size and a length.
        lengths: Of the text, or of the source text; 0 where there is none.
        integers: Operators that the int8 twin computes on integers; none: there is no twin, "*":
            all that the quantizer knows.
        rows_named_by: An output whose rows say what the rows of all outputs are, where rounding
            decides on their order.
    """

    title: str
    module: str
    feeds: Callable[[int, int, int], Feeds]
    lengths: tuple[int, ...] = (0,)
    integers: tuple[str, ...] = ()
    rows_named_by: str = ""


def _pictures(name: str, size: int) -> Callable[[int, int, int], Feeds]:
    def feeds(batch: int, length: int, seed: int) -> Feeds:
        return {name: _random(seed).standard_normal((batch, 3, size, size), np.float32)}

    return feeds


def _digits(batch: int, length: int, seed: int) -> Feeds:
    return {"input": _random(seed).standard_normal((batch, 784), np.float32)}


def _text(batch: int, length: int, seed: int) -> Feeds:
    tokens = _tokens(30522, batch, length, seed)
    mask = _mask(batch, length, seed)
    return {"input_ids": tokens, "attention_mask": mask, "token_type_ids": np.zeros_like(tokens)}


def _words(batch: int, length: int, seed: int) -> Feeds:
    return {"tokens": _tokens(20000, batch, length, seed)}


def _source(batch: int, length: int, seed: int) -> Feeds:
    tokens = _tokens(32000, batch, length, seed)
    return {"input_ids": tokens, "attention_mask": _mask(batch, length, seed)}


def _step(batch: int, length: int, seed: int) -> Feeds:
    """Half as many words are written as the source has."""
    feeds: Feeds = {
        "input_ids": _tokens(32000, batch, 1, seed),
        "attention_mask": _mask(batch, length, seed),
    }
    random = _random(seed)
    for layer in range(6):
        for where, size in (("own", length // 2), ("source", length)):
            for part in ("key", "value"):
                cache = random.standard_normal((batch, 8, size, 64), np.float32)
                feeds[f"past.{layer}.{where}.{part}"] = cache
    return feeds


def _random(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def _tokens(words: int, batch: int, length: int, seed: int) -> NDArray[np.int64]:
    return _random(seed).integers(0, words, (batch, length), np.int64)


def _mask(batch: int, length: int, seed: int) -> NDArray[np.int64]:
    """Return ones, and zeros after each text's end; the first text has the full length."""
    ends = _random(seed).integers((length + 1) // 2, length + 1, batch)
    ends[0] = length
    return (np.arange(length) < ends[:, None]).astype(np.int64)


NETWORKS: Mapping[str, Network] = {
    "resnet50": Network("ResNet-50", "classifiers", _pictures("input", 224), integers=ALL),
    "mobilenetv2": Network("MobileNetV2", "classifiers", _pictures("input", 224), integers=ALL),
    "efficientnet_b0": Network("EfficientNet-B0", "classifiers", _pictures("input", 224)),
    "squeezenet": Network("SqueezeNet 1.1", "classifiers", _pictures("input", 224)),
    "convnext_tiny": Network("ConvNeXt-T", "pictures", _pictures("input", 224)),
    "vit_small": Network("ViT-S/16", "pictures", _pictures("input", 224), integers=PRODUCTS),
    "bert_base": Network("BERT-base", "text", _text, (128, 16), PRODUCTS),
    "minilm": Network("MiniLM-L6-like", "text", _text, (32,)),
    "unet": Network("U-Net, 256 px", "pictures", _pictures("input", 256)),
    "yolo": Network(
        "YOLO-like with NMS, 640 px",
        "detector",
        _pictures("images", 640),
        rows_named_by="chosen",
    ),
    "lstm_tagger": Network("LSTM tagger", "text", _words, (32,)),
    "marian_encoder": Network("Marian-like encoder", "translation", _source, (32,)),
    "marian_decoder": Network("Marian-like decoder step", "translation", _step, (32,)),
    "mlp": Network("MLP 784-512-512-10", "pictures", _digits),
}
