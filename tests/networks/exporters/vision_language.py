"""Models of transformers that look and listen."""

from __future__ import annotations

from typing import Any

import transformers as hf

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
from tests.networks.exporters.from_torch import dynamo, script
from tests.networks.exporters.language import SPREAD, WORDS, Outputs, small

PIXELS: Axes = {"pixel_values": {0: "batch_size"}}
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SEEN = {"image_size": 16, "patch_size": 8, "initializer_range": SPREAD}


def seen(side: int, *rows: int) -> list[Feeds]:
    """Return one case of square pictures per number of rows."""
    return [{"pixel_values": numbers(n, 3, side, side, seed=n)} for n in rows]


@network
def vit_hf() -> Export:
    config = hf.ViTConfig(**SHAPE, **SEEN, intermediate_size=32, num_labels=4)
    feeds = seen(16, 2, 3)
    net = Outputs(small(hf.ViTForImageClassification, config), ["pixel_values"], ["logits"])
    return Export(script(net, feeds[0], PIXELS, ["logits"], opset=14), feeds)


def swin_net() -> Any:
    """Return a Swin with shifted windows in two stages."""
    config = hf.SwinConfig(
        image_size=32,
        patch_size=4,
        embed_dim=8,
        depths=[2, 2],
        num_heads=[2, 2],
        window_size=4,
        initializer_range=SPREAD,
        num_labels=4,
    )
    return Outputs(small(hf.SwinForImageClassification, config), ["pixel_values"], ["logits"])


@network
def swin() -> Export:
    feeds = seen(32, 2, 3)
    model = script(swin_net(), feeds[0], PIXELS, ["logits"], opset=16)
    return Export(shortened(model), feeds)


@network
def swin_dynamo() -> Export:
    feeds = seen(32, 2, 3)
    return Export(dynamo(swin_net(), feeds[0], PIXELS, ["logits"], opset=18), feeds)


@network
def segformer() -> Export:
    config = hf.SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        hidden_sizes=[8, 16],
        num_attention_heads=[1, 2],
        sr_ratios=[4, 2],
        patch_sizes=[7, 3],
        strides=[4, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        initializer_range=SPREAD,
        num_labels=5,
    )
    feeds = seen(32, 2, 3)
    net = small(hf.SegformerForSemanticSegmentation, config)
    wrapped = Outputs(net, ["pixel_values"], ["logits"])
    model = script(wrapped, feeds[0], PIXELS, ["logits"], opset=12)
    return Export(shortened(model), feeds)


@network
def clip() -> Export:
    text = dict(SHAPE, vocab_size=WORDS, intermediate_size=32, max_position_embeddings=16)
    text |= {"eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0}
    vision = dict(SHAPE, image_size=16, patch_size=8, intermediate_size=32)
    config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    feeds: list[Feeds] = []
    for i, (pictures, sentences, length) in enumerate([(2, 3, 7), (1, 2, 5)]):
        ids = tokens(sentences, length, below=WORDS - 1, seed=i) + 1
        ids[:, -1] = 2  # where a sentence ends
        case = {"input_ids": ids, "pixel_values": numbers(pictures, 3, 16, 16, seed=i)}
        feeds.append({**case, "attention_mask": mask(sentences, length)})
    words = {0: "text_batch_size", 1: "sequence_length"}
    axes: Axes = {
        "input_ids": words,
        "pixel_values": {0: "image_batch_size"},
        "attention_mask": words,
    }
    named: Axes = {
        "logits_per_image": {0: "image_batch_size", 1: "text_batch_size"},
        "logits_per_text": {0: "text_batch_size", 1: "image_batch_size"},
        "text_embeds": {0: "text_batch_size"},
        "image_embeds": {0: "image_batch_size"},
    }
    net = Outputs(small(hf.CLIPModel, config), list(feeds[0]), list(named))
    model = script(net, feeds[0], axes, list(named), opset=14, output_axes=named)
    return Export(shortened(model), feeds)


@network
def wav2vec2() -> Export:
    config = hf.Wav2Vec2Config(
        **SHAPE,
        vocab_size=WORDS,
        intermediate_size=32,
        conv_dim=[8, 8, 12],
        conv_stride=[5, 2, 2],
        conv_kernel=[10, 3, 2],
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
        initializer_range=SPREAD,
    )
    feeds = [{"input_values": numbers(2, 400)}, {"input_values": numbers(3, 523, seed=1)}]
    axes: Axes = {"input_values": {0: "batch_size", 1: "sequence_length"}}
    net = Outputs(small(hf.Wav2Vec2ForCTC, config), ["input_values"], ["logits"])
    named: Axes = {"logits": {0: "batch_size", 1: "frames"}}
    model = script(net, feeds[0], axes, ["logits"], opset=14, output_axes=named)
    return Export(model, feeds)
