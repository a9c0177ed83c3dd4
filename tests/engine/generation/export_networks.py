"""Writes tiny encoder-decoders in Optimum's layouts.

    python -m tests.engine.generation.export_networks [NAME ...]

Names choose networks. Needs torch, and per network what its function imports: Optimum with
its ONNX exporter (`pip install optimum-onnx`), the recipe's own exporter, or Transformers before
4.48, whose attention merges heads with rows. What cannot be imported is named and left as it is.
Weights come from fixed seeds; every network is one .zip file of its .onnx files in `fixtures/`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

FIXTURES = Path(__file__).with_name("fixtures")
ARCHIVE_BYTES = 100_000
VOCABULARY, POSITIONS = 61, 24
STAMP = (2026, 1, 1, 0, 0, 0)
SIZES = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": POSITIONS,
}
T5_SIZES = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "d_kv": 6,
    "d_ff": 24,
    "num_layers": 1,
    "num_decoder_layers": 2,
    "num_heads": 2,
    "decoder_start_token_id": 0,
}
MARIAN = {"pad_token_id": 60, "eos_token_id": 0, "decoder_start_token_id": 60}
BATCH, SOURCE, TARGET = "batch_size", "encoder_sequence_length", "decoder_sequence_length"
PAST = "past_decoder_sequence_length"


def random_model(family: str, **options: Any) -> nn.Module:
    """Return a model of a family with weights that make logits differ."""
    transformers = import_module("transformers")
    heads = {"Marian": "MarianMTModel"}
    config = getattr(transformers, f"{family}Config")(**options)
    kind = getattr(transformers, heads.get(family, f"{family}ForConditionalGeneration"))
    torch.manual_seed(3)
    model: nn.Module = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 1.5 * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.1
            parameter.add_(torch.randn_like(parameter) * spread)
    return model


def by_optimum(
    model: nn.Module, folder: Path, task: str = "text2text-generation-with-past"
) -> None:
    """Write what Optimum makes of a model."""
    module = import_module("optimum.exporters.onnx")
    module.onnx_export_from_model(model, folder, task=task, monolith="past" not in task)


def keep(folder: Path, *names: str) -> None:
    """Remove other files."""
    for path in folder.iterdir():
        if path.name not in names:
            path.unlink()


SEPARATE = ("encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx")
MERGED = ("encoder_model.onnx", "decoder_model_merged.onnx")


def marian(folder: Path) -> None:
    """Scaled dot product attention as one function, and a decoder of either kind."""
    by_optimum(random_model("Marian", **SIZES, **MARIAN, scale_embedding=True), folder)
    keep(folder, *SEPARATE)


def marian_eager_merged(folder: Path) -> None:
    """Attention written out; both decoders in one file."""
    options = {**SIZES, **MARIAN, "attn_implementation": "eager"}
    by_optimum(random_model("Marian", **options), folder)
    keep(folder, *MERGED)


def marian_whole(folder: Path) -> None:
    """Encoder and decoder in one graph."""
    by_optimum(random_model("Marian", **SIZES, **MARIAN), folder, "text2text-generation")
    keep(folder, "model.onnx")


def t5(folder: Path) -> None:
    """Relative positions, a bias of scores; root mean squares, no scale."""
    by_optimum(random_model("T5", **T5_SIZES), folder)
    keep(folder, *SEPARATE)


def t5_gated_merged(folder: Path) -> None:
    """As version 1.1 has it."""
    options = {**T5_SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
    by_optimum(random_model("T5", **options), folder)
    keep(folder, *MERGED)


def mbart(folder: Path) -> None:
    """Normalized before, positions with an offset."""
    by_optimum(random_model("MBart", **{**SIZES, "decoder_layers": 1}), folder)
    keep(folder, *SEPARATE)


def m2m100(folder: Path) -> None:
    """Positions that count tokens which are not padding."""
    by_optimum(random_model("M2M100", **{**SIZES, "decoder_layers": 1}), folder)
    keep(folder, *SEPARATE)


def marian_int8(folder: Path) -> None:
    """The recipe's own export: torch's newer exporter, bytes for weights, one file for all data."""
    export = import_module("recipes.translate_de_en.export")
    quantize = import_module("recipes.translate_de_en.quantize")
    model = random_model("Marian", **SIZES, **MARIAN)
    weights = quantize.quantize_weights(model)
    parts = export.export_parts(model)
    for proto in parts.values():
        quantize.store_quantized(proto, weights)
    quantize.save_shared(parts, folder)


class OldEncoder(nn.Module):
    """Tokens to states."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Return (n, s, d)."""
        states: Tensor = self.model.model.encoder(input_ids, attention_mask).last_hidden_state
        return states


class OldDecoder(nn.Module):
    """A decoder without past, or with one: then what the encoder made counts for its size only."""

    def __init__(self, model: Any, past: bool) -> None:
        super().__init__()
        self.model, self.past = model, past

    def forward(self, mask: Tensor, tokens: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        """Return logits, then keys and values."""
        width, kept, past = self.model.config.d_model, 4, None
        states = rest[0]
        if self.past:
            states, kept = mask[:, :, None].to(torch.float32).expand(-1, -1, width) * 0, 2
            past = tuple(rest[i : i + 4] for i in range(0, len(rest), 4))
        found = self.model.model.decoder(
            input_ids=tokens,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=past,
            use_cache=True,
        )
        logits = self.model.lm_head(found.last_hidden_state) + self.model.final_logits_bias
        return logits, *(part for layer in found.past_key_values for part in layer[:kept])


def marian_merged_heads(folder: Path) -> None:
    """Rows and heads on one axis, as Transformers had it before 4.48."""
    version = import_module("transformers").__version__
    if tuple(map(int, version.split(".")[:2])) >= (4, 48):
        raise ImportError(f"transformers {version}: expected one before 4.48")
    model = random_model("Marian", **SIZES, **MARIAN)
    tokens, mask = torch.full((2, 5), 3), torch.ones(2, 5, dtype=torch.int64)
    mask[1, 3:] = 0
    states = OldEncoder(model)(tokens, mask)
    past = OldDecoder(model, False)(mask, tokens[:, :3], states)[1:]
    every = [f"{i}.{s}.{p}" for i in range(2) for s in ("decoder", "encoder") for p in PARTS]
    own = [f"present.{name}" for name in every if "encoder" not in name]
    presents = [f"present.{name}" for name in every]
    olds = [f"past_key_values.{name}" for name in every]
    inputs = ["encoder_attention_mask", "input_ids"]
    _old(OldEncoder(model), (tokens, mask), folder / SEPARATE[0], ENCODER_NAMES, ["states"])
    _old(OldDecoder(model, False), (mask, tokens[:, :3], states), folder / SEPARATE[1],
         [*inputs, "encoder_hidden_states"], ["logits", *presents])  # fmt: skip
    _old(OldDecoder(model, True), (mask, tokens[:, :1], *past), folder / SEPARATE[2],
         [*inputs, *olds], ["logits", *own])  # fmt: skip


PARTS = ("key", "value")
ENCODER_NAMES = ["input_ids", "attention_mask"]


def _old(
    module: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    inputs: list[str],
    outputs: list[str],
) -> None:
    is_step = any(name.startswith("past") for name in inputs)
    axes = {name: _axes(name, is_step) for name in (*inputs, *outputs)}
    if path.name == SEPARATE[0]:
        axes["input_ids"] = {0: BATCH, 1: SOURCE}
    torch.onnx.export(module, example, str(path), input_names=inputs, output_names=outputs,
                      dynamic_axes=axes, opset_version=14, dynamo=False)  # fmt: skip


def _axes(name: str, is_step: bool) -> dict[int, str]:
    if name.startswith(("past", "present")):
        own = PAST if name.startswith("past") else f"{PAST} + 1" if is_step else TARGET
        return {0: BATCH, 2: SOURCE if "encoder" in name else own}
    if name in ("input_ids", "logits"):
        return {0: BATCH} if is_step else {0: BATCH, 1: TARGET}
    return {0: BATCH, 1: SOURCE}


NETWORKS: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (
        marian, marian_eager_merged, marian_whole, marian_int8, marian_merged_heads,
        t5, t5_gated_merged, mbart, m2m100,
    )
}  # fmt: skip


def pack(folder: Path, path: Path) -> int:
    """Write a folder's models as one archive, the same bytes for the same content."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for file in sorted(_models(folder)):
            archive.writestr(zipfile.ZipInfo(file.name, STAMP), file.read_bytes(),
                             zipfile.ZIP_DEFLATED, 9)  # fmt: skip
    size = path.stat().st_size
    assert size <= ARCHIVE_BYTES, f"{path.name}: {size} bytes, expected at most {ARCHIVE_BYTES}"
    return size


def _models(folder: Path) -> Iterator[Path]:
    for file in folder.iterdir():
        if file.suffix == ".onnx":
            proto = onnx.load(file, load_external_data=False)
            proto.graph.ClearField("value_info")
            for node in proto.graph.node:
                node.ClearField("doc_string")
                node.ClearField("metadata_props")
            file.write_bytes(proto.SerializeToString(deterministic=True))
        if file.suffix == ".onnx" or file.name.endswith("_data"):
            yield file


def main() -> None:
    """Write what was asked for and can be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="name")
    FIXTURES.mkdir(exist_ok=True)
    for name in parser.parse_args().names or NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            try:
                NETWORKS[name](Path(folder))
            except (ImportError, AttributeError) as error:
                sys.stdout.write(f"{name}: left as it is: {error}\n")
                continue
            size = pack(Path(folder), FIXTURES / f"{name}.zip")
        sys.stdout.write(f"{name}: {size:,} bytes\n")


if __name__ == "__main__":
    main()
