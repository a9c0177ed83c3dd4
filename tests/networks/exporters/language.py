"""Language models of transformers: encoders, and decoders that carry a cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import transformers as hf
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tests.networks.exporters.common import (
    Axes,
    Export,
    Feeds,
    mask,
    network,
    numbers,
    shortened,
    tokens,
)
from tests.networks.exporters.from_torch import dynamo, script, settled

WORDS, LAYERS, HEADS, WIDTH = 48, 2, 2, 24
SPREAD = 0.2  # of random weights: wide enough that attention looks at something
TEXT: Axes = {
    "input_ids": {0: "batch_size", 1: "sequence_length"},
    "attention_mask": {0: "batch_size", 1: "sequence_length"},
}


def small(model: type[PreTrainedModel], config: PretrainedConfig) -> Any:
    """Return a model with random weights, its attention written out."""
    return settled(model._from_config(config, attn_implementation="eager"))


class Outputs(nn.Module):
    """Calls a model with named inputs and gives some of its outputs, in order."""

    def __init__(self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        super().__init__()
        self.model, self.inputs, self.outputs = model, tuple(inputs), tuple(outputs)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        result = self.model(**dict(zip(self.inputs, values, strict=True)))
        return tuple(result[name] for name in self.outputs)


def texts(*sizes: tuple[int, int], kinds: bool = False) -> list[Feeds]:
    """Return one case per (rows, length), its last row shorter than the others."""
    cases = []
    for i, (n, t) in enumerate(sizes):
        case = {
            "input_ids": tokens(n, t, below=WORDS, seed=i),
            "attention_mask": mask(n, t, *([2] if n > 1 else [])),
        }
        if kinds:
            case["token_type_ids"] = np.repeat(np.arange(t)[None] > t // 2, n, 0).astype(np.int64)
        cases.append(case)
    return cases


def encoder(net: nn.Module, feeds: Sequence[Feeds], outputs: Sequence[str], opset: int) -> Export:
    """Export a model of a text with the older exporter."""
    first = feeds[0]
    axes: Axes = dict.fromkeys(first, TEXT["input_ids"])
    named = {name: {0: "batch_size"} for name in outputs}
    for name in outputs:
        if name == "last_hidden_state" or (name == "logits" and _of_tokens(net)):
            named[name] = dict(TEXT["input_ids"])
    wrapped = Outputs(net, list(first), outputs)
    model = script(wrapped, first, axes, outputs, opset=opset, output_axes=named)
    return Export(shortened(model), feeds)


def _of_tokens(net: nn.Module) -> bool:
    return "Sequence" not in type(net).__name__


def bert_net() -> Any:
    """Return a BERT that classifies."""
    config = hf.BertConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=48,
        max_position_embeddings=24,
        initializer_range=SPREAD,
        num_labels=3,
    )
    return small(hf.BertForSequenceClassification, config)


@network
def bert() -> Export:
    return encoder(bert_net(), texts((2, 7), (3, 5), kinds=True), ["logits"], opset=11)


@network
def bert_dynamo() -> Export:
    feeds = texts((2, 7), (3, 5), kinds=True)
    axes: Axes = dict.fromkeys(feeds[0], TEXT["input_ids"])
    net = Outputs(bert_net(), list(feeds[0]), ["logits"])
    return Export(dynamo(net, feeds[0], axes, ["logits"], opset=18), feeds)


@network
def distilbert() -> Export:
    config = hf.DistilBertConfig(
        vocab_size=WORDS,
        dim=WIDTH,
        n_layers=LAYERS,
        n_heads=HEADS,
        hidden_dim=48,
        max_position_embeddings=24,
        initializer_range=SPREAD,
    )
    net = small(hf.DistilBertModel, config)
    return encoder(net, texts((2, 7), (3, 5)), ["last_hidden_state"], opset=12)


@network
def roberta() -> Export:
    config = hf.RobertaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=48,
        max_position_embeddings=24,
        initializer_range=SPREAD,
        pad_token_id=0,
    )
    net = small(hf.RobertaForTokenClassification, config)
    return encoder(net, texts((2, 7), (1, 9)), ["logits"], opset=14)


@network
def albert() -> Export:
    config = hf.AlbertConfig(
        vocab_size=WORDS,
        embedding_size=12,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=48,
        max_position_embeddings=24,
        initializer_range=SPREAD,
    )
    net = small(hf.AlbertModel, config)
    outputs = ["last_hidden_state", "pooler_output"]
    return encoder(net, texts((2, 7), (3, 4), kinds=True), outputs, opset=13)


@network
def deberta() -> Export:
    config = hf.DebertaV2Config(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        intermediate_size=48,
        max_position_embeddings=24,
        relative_attention=True,
        position_buckets=8,
        pos_att_type=["p2c", "c2p"],
        norm_rel_ebd="layer_norm",
        initializer_range=SPREAD,
    )
    net = small(hf.DebertaV2Model, config)
    return encoder(net, texts((2, 7), (3, 5)), ["last_hidden_state"], opset=15)


class Cached(nn.Module):
    """A decoder whose cache comes in and goes out as tensors, two per layer."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor, attention_mask: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        pairs = list(zip(past[::2], past[1::2], strict=True))
        result = self.model(
            input_ids=ids,
            attention_mask=attention_mask,
            past_key_values=hf.DynamicCache(pairs),
            use_cache=True,
        )
        layers = result.past_key_values.layers
        return result.logits, *(part for layer in layers for part in (layer.keys, layer.values))


def cached(net: nn.Module, heads: int, size: int, *, opset: int, newer: bool = False) -> Export:
    """Export a decoder with its cache; named as Optimum names things."""
    feeds: list[Feeds] = []
    for i, (n, past, t) in enumerate([(2, 3, 2), (3, 5 if newer else 0, 4)]):
        case = {
            "input_ids": tokens(n, t, below=WORDS, seed=i),
            "attention_mask": np.ones((n, past + t), np.int64),
        }
        case["attention_mask"][-1, :1] = 0  # padded on the left, as generation does
        for layer in range(LAYERS):
            for k, part in enumerate(("key", "value")):
                seed = 10 * i + 2 * layer + k
                case[f"past_key_values.{layer}.{part}"] = numbers(n, heads, past, size, seed=seed)
        feeds.append(case)
    total = "past_sequence_length + sequence_length"
    batch, past_axis = {0: "batch_size"}, {2: "past_sequence_length"}
    axes: dict[str, dict[int, str]] = {name: {**batch, **past_axis} for name in feeds[0]}
    axes["input_ids"] = dict(TEXT["input_ids"])
    axes["attention_mask"] = {**batch, 1: "total_sequence_length" if newer else total}
    present = [f"present.{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
    outputs = ["logits", *present]
    if newer:
        return Export(dynamo(Cached(net), feeds[0], axes, outputs, opset=opset), feeds)
    named: Axes = {name: {**batch, 2: total} for name in present}
    named = {**named, "logits": TEXT["input_ids"]}
    model = script(Cached(net), feeds[0], axes, outputs, opset=opset, output_axes=named)
    return Export(shortened(model), feeds)


@network
def gpt2() -> Export:
    config = hf.GPT2Config(
        vocab_size=WORDS,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        n_positions=32,
        initializer_range=SPREAD,
    )
    return cached(small(hf.GPT2LMHeadModel, config), HEADS, WIDTH // HEADS, opset=14)


def llama_net() -> Any:
    """Return a Llama whose heads share keys in pairs."""
    config = hf.LlamaConfig(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
        max_position_embeddings=32,
        initializer_range=SPREAD,
        head_dim=8,
    )
    return small(hf.LlamaForCausalLM, config)


@network
def llama() -> Export:
    return cached(llama_net(), 2, 8, opset=17)


@network
def llama_dynamo() -> Export:
    return cached(llama_net(), 2, 8, opset=18, newer=True)


@network
def qwen() -> Export:
    config = hf.Qwen2Config(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
        max_position_embeddings=32,
        initializer_range=SPREAD,
        head_dim=6,
    )
    return cached(small(hf.Qwen2ForCausalLM, config), 2, 6, opset=18)


@network
def mamba() -> Export:
    config = hf.MambaConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=1,
        state_size=4,
        time_step_rank=2,
        initializer_range=SPREAD,
        use_cache=False,
    )
    net = settled(hf.MambaForCausalLM(config))
    feeds = [{"input_ids": tokens(n, 6, below=WORDS, seed=n)} for n in (2, 3)]
    axes: Axes = {"input_ids": {0: "batch_size"}}
    wrapped = Outputs(net, ["input_ids"], ["logits"])
    return Export(script(wrapped, feeds[0], axes, ["logits"], opset=17), feeds)
