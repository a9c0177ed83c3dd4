"""Export in the layout of Hugging Face Optimum: an encoder, a decoder, and a decoder with past."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from transformers import MarianMTModel
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from recipes.common.export import OPSET, plain

BATCH, SOURCE = "batch_size", "encoder_sequence_length"
TARGET, PAST = "decoder_sequence_length", "past_decoder_sequence_length"
SIDES = ("decoder", "encoder")
PARTS = ("key", "value")


class Encoder(nn.Module):
    """Token ids to hidden states."""

    def __init__(self, model: MarianMTModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return hidden states (n, s, d)."""
        states: Tensor = self.model.model.encoder(
            input_ids=input_ids, attention_mask=attention_mask
        ).last_hidden_state
        return states


class Decoder(nn.Module):
    """The first tokens: also computes keys and values of the source."""

    def __init__(self, model: MarianMTModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, encoder_attention_mask: Tensor, input_ids: Tensor, encoder_hidden_states: Tensor
    ) -> tuple[Tensor, ...]:
        """Return logits (n, t, v), then per layer the keys and values of target and source."""
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        states = self.model.model.decoder(
            input_ids=input_ids,
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        return _logits(self.model, states), *_flat(cache)


class DecoderWithPast(nn.Module):
    """Every further token."""

    def __init__(self, model: MarianMTModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, encoder_attention_mask: Tensor, input_ids: Tensor, past: list[Tensor]
    ) -> tuple[Tensor, ...]:
        """Return logits (n, 1, v), then per layer the longer keys and values of the target."""
        own, source = DynamicCache(), DynamicCache()
        for layer in range(len(past) // 4):
            own.update(past[4 * layer], past[4 * layer + 1], layer)
            source.update(past[4 * layer + 2], past[4 * layer + 3], layer)
        cache = EncoderDecoderCache(own, source)
        # With keys and values of the source at hand, of its states only the size is looked at.
        unread = torch.zeros(*encoder_attention_mask.shape, self.model.config.d_model)
        states = self.model.model.decoder(
            input_ids=input_ids,
            encoder_hidden_states=unread,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        tensors = _flat(cache)
        return _logits(self.model, states), *(x for k, x in enumerate(tensors) if k % 4 < 2)


def export_parts(model: MarianMTModel) -> dict[str, onnx.ModelProto]:
    """Return file name -> graph, under the names that Optimum gives to inputs, outputs and dims."""
    model.eval()
    layers, heads = model.config.decoder_layers, model.config.decoder_attention_heads
    width = model.config.d_model // heads
    n, s, t, p = (torch.export.Dim(name, min=1) for name in (BATCH, SOURCE, TARGET, PAST))
    ids, mask = torch.full((2, 7), 3), torch.ones(2, 7, dtype=torch.int64)
    states = torch.zeros(2, 7, model.config.d_model)
    lengths = [5, 5, 7, 7] * layers       # key, value of the target; key, value of the source
    past = [torch.zeros(2, heads, length, width) for length in lengths]
    past_dims = [{0: n, 2: p if length == 5 else s} for length in lengths]
    every = list(_names(layers, SIDES))
    own = [f"present.{name}" for name in _names(layers, ("decoder",))]
    return {
        "encoder_model.onnx": _export(
            Encoder(model), (ids, mask), ({0: n, 1: s}, {0: n, 1: s}),
            ["input_ids", "attention_mask"], ["last_hidden_state"],
        ),
        "decoder_model.onnx": _export(
            Decoder(model), (mask, ids[:, :3], states), ({0: n, 1: s}, {0: n, 1: t}, {0: n, 1: s}),
            ["encoder_attention_mask", "input_ids", "encoder_hidden_states"],
            ["logits", *(f"present.{name}" for name in every)],
        ),
        "decoder_with_past_model.onnx": _export(
            DecoderWithPast(model), (mask, ids[:, :1], past), ({0: n, 1: s}, {0: n}, past_dims),
            ["encoder_attention_mask", "input_ids", *(f"past_key_values.{k}" for k in every)],
            ["logits", *own],
        ),
    }  # fmt: skip


def _logits(model: MarianMTModel, states: Tensor) -> Tensor:
    logits: Tensor = model.lm_head(states) + model.final_logits_bias
    return logits


def _flat(cache: EncoderDecoderCache) -> list[Tensor]:
    own, source = cache.self_attention_cache.layers, cache.cross_attention_cache.layers
    return [
        tensor
        for mine, theirs in zip(own, source, strict=True)
        for tensor in (mine.keys, mine.values, theirs.keys, theirs.values)
    ]


def _names(layers: int, sides: tuple[str, ...]) -> Iterator[str]:
    for layer in range(layers):
        for side in sides:
            for part in PARTS:
                yield f"{layer}.{side}.{part}"


def _export(
    module: nn.Module,
    example: tuple[Any, ...],
    shapes: tuple[Any, ...],
    inputs: list[str],
    outputs: list[str],
) -> onnx.ModelProto:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)     # it misses torchvision
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")   # the exporter speaks of its own internals
        program = torch.onnx.export(
            module.eval(),
            example,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            dynamic_shapes=shapes,
            dynamo=True,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    return plain(program.model_proto)
