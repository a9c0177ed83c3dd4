"""The networks: what is expected of each beside ONNX Runtime's answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import engine

DEFAULT = 5e-5
HALF = 2e-2
EIGHT_BITS = 1.01 / 127  # a value on the border of two steps may fall to either side


@dataclass(frozen=True)
class Network:
    """What is expected of a network.

    Attributes:
        batch: Which inputs and outputs hold independent items.
        alone: Text of the reason why nothing may be batched, where `batch` is None.
        tolerance: How far answers may be from those on file, relative to their largest magnitude.
        open: Outputs with sizes that only values tell.
    """

    batch: engine.BatchAxes | None = None
    alone: str = ""
    tolerance: float = DEFAULT
    open: frozenset[str] = field(default_factory=frozenset)

    def within(self, tolerance: float) -> Network:
        """Return the same with another tolerance."""
        return replace(self, tolerance=tolerance)

    def opened(self, *outputs: str) -> Network:
        """Return the same with outputs whose sizes only values tell."""
        return replace(self, open=frozenset(outputs))


def rows(inputs: str, outputs: str) -> Network:
    """Return a network whose items are independent in all these inputs and outputs."""
    return Network(engine.BatchAxes(frozenset(inputs.split()), frozenset(outputs.split())))


def alone(reason: str) -> Network:
    """Return a network in which nothing may be batched."""
    return Network(alone=reason)


ONE = rows("x", "y")
TEXT = "input_ids attention_mask"
TEXT_KINDS = f"{TEXT} token_type_ids"
PARTS = [f"{layer}.{part}" for layer in (0, 1) for part in ("key", "value")]
CACHED = rows(
    " ".join([TEXT, *(f"past_key_values.{part}" for part in PARTS)]),
    " ".join(["logits", *(f"present.{part}" for part in PARTS)]),
)
SIDES = [f"0.{side}.{part}" for side in ("decoder", "encoder") for part in ("key", "value")]
PAST, PRESENT = (
    " ".join(f"{prefix}.{side}" for side in SIDES) for prefix in ("past_key_values", "present")
)
LABELLED = rows("x", "label probabilities")
READ = "input_ids encoder_hidden_states encoder_attention_mask"

NETWORKS: dict[str, Network] = {
    # classifiers
    "resnet": ONE,
    "resnet_bottleneck": ONE,
    "mobilenet_v2": ONE,
    "mobilenet_v3": ONE,
    "efficientnet": ONE,
    "densenet": ONE,
    "inception": ONE,
    "shufflenet": ONE,
    "squeezenet": ONE,
    "convnext": ONE,
    # pictures
    "unet": ONE,
    "unet_bilinear": ONE,
    "segmentation": ONE,
    "style_transfer": ONE,
    "super_resolution": ONE,
    "gan_generator": ONE,
    # detectors
    "ssd": rows("x", "boxes scores"),
    "detector_nms": alone("NonMaxSuppression").opened("boxes", "scores", "classes", "rows"),
    "yolo": ONE,
    "yolo_free_size": ONE,
    "yolo_dynamo": ONE,
    # sequences
    "lstm": ONE,
    "lstm_dynamo": ONE,
    "gru": ONE,
    "rnn": ONE,
    "lstm_packed": rows("x lengths", "y"),
    "seq2seq_loop": rows("x", "words logits").opened("words"),
    "until_loop": alone("condition depends on the items"),
    "tcn": ONE,
    "tcn_dynamo": ONE,
    "translator": rows("x written", "y"),
    "spectrogram": ONE,
    # attention, diffusion, and operators of their own kind
    "vit": ONE,
    "vit_script": ONE,
    "vit_newest_opset": ONE,
    "mixer": ONE,
    "diffusion_unet": rows("sample timestep prompt", "y"),
    "diffusion_unet_dynamo": rows("sample timestep prompt", "y"),
    "autoencoder": ONE,
    "autoencoder_conv": ONE,
    "spatial_transformer": ONE,
    "graph_net": alone("Gather"),
    "recommender": rows("dense categories", "y"),
    # language models
    "bert": rows(TEXT_KINDS, "logits"),
    "bert_dynamo": rows(TEXT_KINDS, "logits"),
    "distilbert": rows(TEXT, "last_hidden_state"),
    "roberta": rows(TEXT, "logits"),
    "albert": rows(TEXT_KINDS, "last_hidden_state pooler_output"),
    "deberta": rows(TEXT, "last_hidden_state"),
    "gpt2": CACHED,
    "llama": CACHED,
    "llama_dynamo": CACHED,
    "qwen": CACHED,
    "mamba": rows("input_ids", "logits"),
    # encoders and decoders
    "t5_encoder": rows(TEXT, "last_hidden_state"),
    "t5_decoder": rows(READ, f"logits {PRESENT}"),
    "t5_decoder_with_past": rows(f"{READ} {PAST}", f"logits {PRESENT}"),
    "t5_decoder_merged": rows(f"{READ} {PAST}", f"logits {PRESENT}").opened(*PRESENT.split()),
    "marian_encoder": rows(TEXT, "last_hidden_state"),
    "marian_decoder": rows(READ, f"logits {PRESENT}"),
    "marian_decoder_merged": rows(f"{READ} {PAST}", f"logits {PRESENT}").opened(*PRESENT.split()),
    "whisper_encoder": rows("input_features", "last_hidden_state"),
    "whisper_decoder": rows("input_ids encoder_hidden_states", f"logits {PRESENT}"),
    "whisper_decoder_with_past": rows(f"input_ids {PAST}", f"logits {PRESENT}"),
    # pictures, words and sounds
    "vit_hf": rows("pixel_values", "logits"),
    "swin": rows("pixel_values", "logits"),
    "swin_dynamo": rows("pixel_values", "logits"),
    "segformer": rows("pixel_values", "logits"),
    "clip": alone("number of items"),
    "wav2vec2": rows("input_values", "logits"),
    # fewer bits
    "resnet_qdq": ONE.within(EIGHT_BITS),
    "resnet_qoperator": ONE.within(EIGHT_BITS),
    "bert_dynamic_int8": alone("DynamicQuantizeLinear").within(EIGHT_BITS),
    "lstm_dynamic_int8": alone("DynamicQuantize").within(EIGHT_BITS),
    "resnet_fp16": ONE.within(HALF),
    "bert_fp16": rows(TEXT_KINDS, "logits").within(HALF),
    "llama_int4": CACHED,
    "vit_int4_blocks": ONE,
    "external_weights": ONE,
    # optimized by ONNX Runtime
    "resnet_optimized": ONE,
    "mixer_optimized": ONE,
    "bert_optimized": rows(TEXT_KINDS, "logits"),
    "bert_fused": rows(TEXT_KINDS, "logits"),
    "bert_fused_int8": alone("Dynamic").within(EIGHT_BITS),
    "gpt2_fused": CACHED,
    "llama_optimized": CACHED,
    # scikit-learn and LightGBM
    "logistic": alone("ZipMap"),
    "logistic_binary": LABELLED,
    "svc": LABELLED,
    "svr": rows("x", "variable"),
    "random_forest": LABELLED,
    "gradient_boosting": rows("x", "variable"),
    "boosted_classifier": LABELLED,
    "neighbours": LABELLED,
    "clusters": rows("x", "label scores"),
    "naive_bayes": LABELLED,
    "perceptron": LABELLED,
    "mixed_columns": rows("x colour", "label probabilities"),
    "text_classifier": alone("Tokenizer"),
    "lightgbm_classifier": alone("ZipMap"),
    "lightgbm_regressor": rows("x", "variable"),
}
