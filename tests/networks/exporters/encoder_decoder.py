"""Encoders and decoders of transformers, apart and as one file that decides by a flag."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import transformers as hf
from onnx import TensorProto, compose, helper
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from tests.networks.exporters.common import Axes, Export, Feeds, mask, network, numbers, tokens
from tests.networks.exporters.from_torch import script
from tests.networks.exporters.language import SPREAD, TEXT, WORDS, Outputs, small

HEADS, SIZE, WIDTH = 2, 10, 20
PARTS = [
    f"{side}.{part}" for side in ("decoder", "encoder") for part in ("key", "value")
]  # of the one layer
BATCH = {0: "batch_size"}
SEEN: dict[int, str] = {**BATCH, 1: "encoder_sequence_length"}
OPSET = 14


def t5_net() -> Any:
    """Return a T5 of one layer."""
    config = hf.T5Config(
        vocab_size=WORDS,
        d_model=WIDTH,
        d_kv=SIZE,
        d_ff=32,
        num_layers=1,
        num_heads=HEADS,
        relative_attention_num_buckets=8,
        decoder_start_token_id=0,
        feed_forward_proj="gated-gelu",
    )
    return small(hf.T5ForConditionalGeneration, config)


def marian_net() -> Any:
    """Return a Marian of one layer."""
    config = hf.MarianConfig(
        vocab_size=WORDS,
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=24,
        pad_token_id=0,
        eos_token_id=1,
        decoder_start_token_id=0,
        init_std=SPREAD,
    )
    return small(hf.MarianMTModel, config)


def whisper_net() -> Any:
    """Return a Whisper of one layer, for sounds of 32 frames."""
    config = hf.WhisperConfig(
        vocab_size=WORDS,
        num_mel_bins=8,
        d_model=WIDTH,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_source_positions=16,
        max_target_positions=24,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        init_std=SPREAD,
    )
    return small(hf.WhisperForConditionalGeneration, config)


class Decoder(nn.Module):
    """One step of writing, its cache as tensors: keys and values of what it wrote and read."""

    def __init__(self, model: nn.Module, masked: bool) -> None:
        super().__init__()
        self.model, self.masked = model, masked

    def forward(self, ids: Tensor, hidden: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        seen, past = (rest[0], rest[1:]) if self.masked else (None, rest)
        own, read = hf.DynamicCache(), hf.DynamicCache()
        if past:
            own, read = hf.DynamicCache([past[:2]]), hf.DynamicCache([past[2:]])
        named = {"attention_mask": seen} if self.masked else {}
        result = self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
            decoder_input_ids=ids,
            past_key_values=hf.EncoderDecoderCache(own, read),
            use_cache=True,
            **named,
        )
        cache = result.past_key_values
        own, read = cache.self_attention_cache.layers[0], cache.cross_attention_cache.layers[0]
        return result.logits, own.keys, own.values, read.keys, read.values


def decoder_feeds(i: int, sizes: tuple[int, int, int, int], masked: bool) -> Feeds:
    """Return inputs for so many rows, words read, words written before, words written now."""
    rows, read, past, now = sizes
    feeds = {
        "input_ids": tokens(rows, now, below=WORDS, seed=i),
        "encoder_hidden_states": numbers(rows, read, WIDTH, seed=i),
    }
    if masked:
        feeds["encoder_attention_mask"] = mask(rows, read, 1)
    for k, part in enumerate(PARTS):
        length = past if part.startswith("decoder") else read
        feeds[f"past_key_values.0.{part}"] = numbers(rows, HEADS, length, SIZE, seed=7 * i + k)
    return feeds


def decoder_axes(feeds: Feeds) -> dict[str, dict[int, str]]:
    """Return the open dims of a decoder's inputs, as Optimum names them."""
    axes: dict[str, dict[int, str]] = {}
    for name in feeds:
        if name == "input_ids":
            axes[name] = {**BATCH, 1: "decoder_sequence_length"}
        elif name.startswith("encoder"):
            axes[name] = SEEN
        elif ".decoder." in name:
            axes[name] = {**BATCH, 2: "past_decoder_sequence_length"}
        else:
            axes[name] = {**BATCH, 2: "encoder_sequence_length"}
    return axes


def decoder_model(net: nn.Module, feeds: Feeds, fixed: bool = False) -> onnx.ModelProto:
    """Export a decoder; `fixed` keeps the length of what it read as a number."""
    past = any(name.startswith("past") for name in feeds)
    written = "past_decoder_sequence_length + " * past + "decoder_sequence_length"
    named: Axes = {
        "logits": {**BATCH, 1: "decoder_sequence_length"},
        **{f"present.0.{p}": {**BATCH, 2: written} for p in PARTS[:2]},
        **{f"present.0.{p}": {**BATCH, 2: "encoder_sequence_length"} for p in PARTS[2:]},
    }
    axes = decoder_axes(feeds)
    if fixed:
        read = "encoder_sequence_length"
        axes, named = (
            {n: {k: s for k, s in a.items() if s != read} for n, a in d.items()}
            for d in (axes, named)
        )
    wrapped = Decoder(net, "encoder_attention_mask" in feeds)
    return script(wrapped, feeds, axes, list(named), opset=OPSET, output_axes=named)


def without_past(feeds: Feeds) -> Feeds:
    """Return the inputs of the first step."""
    return {name: array for name, array in feeds.items() if not name.startswith("past")}


def decoders(net: nn.Module, read: tuple[int, int], masked: bool) -> tuple[Export, Export]:
    """Return the decoder of the first step and that of the others."""
    sizes = [(2, read[0], 3, 2), (3, read[1], 5, 1)]
    feeds = [decoder_feeds(i, s, masked) for i, s in enumerate(sizes)]
    first = [without_past(f) for f in feeds]
    fixed = read[0] == read[1]
    return (
        _export(decoder_model(net, first[0], fixed), first),
        _export(decoder_model(net, feeds[0], fixed), feeds),
    )


def _export(model: onnx.ModelProto, feeds: Sequence[Feeds]) -> Export:
    """Leave out what the model does not read: whoever has the cache needs no hidden states."""
    read = {value.name for value in model.graph.input}
    return Export(model, [{n: a for n, a in case.items() if n in read} for case in feeds])


def merged(net: nn.Module) -> Export:
    """Return both decoders in one file, as Optimum merges them: `use_cache_branch` chooses."""
    first, later = decoders(net, (6, 4), masked=True)
    branches = [_branch(e.model, prefix) for e, prefix in ((later, "with/"), (first, "first/"))]
    weights = _shared_weights(list(branches))
    flag = helper.make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    names = [value.name for value in first.model.graph.output]
    node = helper.make_node(
        "If", ["use_cache_branch"], names, then_branch=branches[0], else_branch=branches[1]
    )
    outputs = [_output(value) for value in first.model.graph.output]
    inputs = [*map(_input, later.model.graph.input), flag]
    graph = helper.make_graph([node], "merged", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    feeds = []
    for used, case in zip((True, False), later.feeds, strict=True):
        if not used:  # an empty cache, as Optimum feeds it
            case = {n: a[:, :, :0] if n.startswith("past") else a for n, a in case.items()}
        feeds.append({**case, "use_cache_branch": np.array([used])})
    return Export(model, feeds)


def _branch(model: onnx.ModelProto, prefix: str) -> onnx.GraphProto:
    """Return a model's graph as a body: inner names made its own, inputs those around it."""
    graph = compose.add_prefix_graph(
        model.graph,
        prefix,
        rename_inputs=False,
        rename_outputs=False,
        rename_nodes=True,
        rename_value_infos=True,
        rename_initializers=True,
        rename_edges=True,
    )
    del graph.input[:]
    del graph.value_info[:]
    renamed = {value.name: prefix + value.name for value in graph.output}
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
    for i, value in enumerate(list(graph.output)):
        graph.output[i].CopyFrom(
            helper.make_tensor_value_info(
                renamed[value.name], value.type.tensor_type.elem_type, None
            )
        )
    return graph


def _input(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """Return an input; what was read before may be empty, so it has a length of its own."""
    if ".encoder." in value.name:
        value.type.tensor_type.shape.dim[2].dim_param = "encoder_sequence_length_out"
    return value


def _output(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """Return an output whose lengths depend on the branch."""
    shape = (
        ["batch_size", None, WORDS] if value.name == "logits" else ["batch_size", HEADS, None, SIZE]
    )
    return helper.make_tensor_value_info(value.name, TensorProto.FLOAT, shape)


def _shared_weights(graphs: Sequence[onnx.GraphProto]) -> list[onnx.TensorProto]:
    """Take the weights out of the bodies, each kept once, and rename who reads them."""
    kept: dict[tuple[object, ...], onnx.TensorProto] = {}
    for graph in graphs:
        renamed = {}
        for weight in graph.initializer:
            key = (
                weight.data_type,
                tuple(weight.dims),
                weight.raw_data or weight.SerializeToString(),
            )
            renamed[weight.name] = kept.setdefault(key, weight).name
        for node in graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
    result = [onnx.TensorProto.FromString(w.SerializeToString()) for w in kept.values()]
    for graph in graphs:
        del graph.initializer[:]
    return result


def text_encoder(net: Any) -> Export:
    """Export the encoder of a text."""
    feeds = [
        {"input_ids": tokens(n, t, below=WORDS, seed=n), "attention_mask": mask(n, t, 2)}
        for n, t in ((2, 6), (3, 9))
    ]
    outputs = ["last_hidden_state"]
    wrapped = Outputs(net.get_encoder(), list(feeds[0]), outputs)
    axes: Axes = {"last_hidden_state": TEXT["input_ids"]}
    return Export(script(wrapped, feeds[0], TEXT, outputs, opset=OPSET, output_axes=axes), feeds)


@network
def t5_encoder() -> Export:
    return text_encoder(t5_net())


@network
def t5_decoder() -> Export:
    return decoders(t5_net(), (6, 4), masked=True)[0]


@network
def t5_decoder_with_past() -> Export:
    return decoders(t5_net(), (6, 4), masked=True)[1]


@network
def t5_decoder_merged() -> Export:
    return merged(t5_net())


@network
def marian_encoder() -> Export:
    return text_encoder(marian_net())


@network
def marian_decoder() -> Export:
    return decoders(marian_net(), (6, 4), masked=True)[0]


@network
def marian_decoder_merged() -> Export:
    return merged(marian_net())


@network
def whisper_encoder() -> Export:
    feeds = [{"input_features": numbers(n, 8, 32, seed=n)} for n in (2, 3)]
    outputs = ["last_hidden_state"]
    wrapped = Outputs(whisper_net().get_encoder(), list(feeds[0]), outputs)
    model = script(wrapped, feeds[0], {"input_features": BATCH}, outputs, opset=OPSET)
    return Export(model, feeds)


@network
def whisper_decoder() -> Export:
    return decoders(whisper_net(), (16, 16), masked=False)[0]


@network
def whisper_decoder_with_past() -> Export:
    return decoders(whisper_net(), (16, 16), masked=False)[1]
