"""From trained weights to version folders, whose figures come from the rounded weights."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes.common import package
from recipes.common.export import ExportMismatch
from recipes.common.report import draw_curve, machine, write_results
from recipes.translate_de_en.corpus import Corpus
from recipes.translate_de_en.documents import LICENSE, card
from recipes.translate_de_en.evaluate import Scores, generation_config, score, translate
from recipes.translate_de_en.export import export_parts
from recipes.translate_de_en.quantize import quantize_weights, save_shared, store_quantized
from recipes.translate_de_en.train import Training, build_model

NAME = "translate-de-en"
LOGITS_TOLERANCE = 1e-3                   # torch and ONNX Runtime sum in other orders
EVERYDAY = (
    "Wo ist der Bahnhof?",
    "Ich habe meinen Schlüssel verloren.",
    "Das Wetter ist heute schön.",
    "Zwei junge Männer spielen im Park Fußball.",
    "Kannst du mir bitte helfen?",
)
MODEL_TOML = """\
task = "translation"

[translation]
source = "de"
target = "en"
source_tokens = 128                       # it was trained on up to 100; longer sentences are cut
rows = 128                                # its caches are small: 1 MB a row
"""


def publish_versions(training: Training, corpus: Corpus, out: Path, results: Path) -> None:
    """Write both versions, and the results of the final one."""
    home = out / NAME
    home.mkdir(parents=True, exist_ok=True)
    (home / "model.toml").write_text(MODEL_TOML)
    steps = {"1": training.settings.early_step, "2": training.progress.step}
    weights = {"1": training.early(), "2": training.mean.state_dict()}
    for version, state in weights.items():
        scores = publish(training, corpus, state, home / version, steps[version])
        print(f"{NAME} version {version}: BLEU {scores.bleu}, chrF {scores.chrf}")
    _write_results(training, scores, results)


def publish(
    training: Training, corpus: Corpus, state: Mapping[str, Tensor], final: Path, step: int
) -> Scores:
    """Round, export, verify and measure one set of weights; put its folder in place at once."""
    settings, vocabulary = training.settings, training.vocabulary
    model = build_model(settings)
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    config = generation_config(vocabulary, settings.positions)
    model.generation_config = config
    matrices = quantize_weights(model)
    parts = export_parts(model)
    for proto in parts.values():
        store_quantized(proto, matrices)
    incoming = final.parent / f".incoming-{final.name}"
    shutil.rmtree(incoming, ignore_errors=True)
    size = save_shared(parts, incoming)
    vocabulary.save(incoming)
    model.config.to_json_file(incoming / "config.json")
    config.to_json_file(incoming / "generation_config.json")
    tokenizer = {"source_lang": "de", "target_lang": "en", "tokenizer_class": "MarianTokenizer"}
    (incoming / "tokenizer_config.json").write_text(json.dumps(tokenizer, indent=2) + "\n")
    difference = _check(incoming, model)
    # The same weights for other engines: what benchmarks and tests compare with.
    model.save_pretrained(training.folder / f"transformers-{final.name}")
    vocabulary.save(training.folder / f"transformers-{final.name}")
    written = translate(model, vocabulary, [p.german for p in corpus.test], config)
    scores = score([vocabulary.decode(tokens) for tokens in written], corpus.test)
    examples = _write_samples(incoming, model, training)
    facts = {
        "sacreBLEU, Multi30k test_2016_flickr (1,000 sentences)": f"{scores.bleu:.2f}",
        "chrF, the same": f"{scores.chrf:.2f}",
        "parameters": f"{sum(p.numel() for p in model.parameters()):,}",
        "steps": f"{step:,}",
        "training of the whole run": (
            f"{training.progress.train_s / 60:.0f} min ({training.progress.cpu_s / 60:.0f} CPU-min)"
            f" on {machine()}, shared with other work"
        ),
        "largest difference of logits, ONNX files from torch": f"{difference:.1e}",
        "size of graphs and weights": f"{size:,} bytes",
    }
    (incoming / "CARD.md").write_text(card(final.name, facts, examples, scores.signature))
    (incoming / "LICENSE").write_text(LICENSE)
    package.write_manifest(incoming, NAME, final.name)
    shutil.rmtree(final, ignore_errors=True)
    incoming.rename(final)
    return scores


def _check(folder: Path, model: Any) -> float:
    """Compare the exported files with torch over a few steps; return the largest difference."""
    ids = torch.tensor([[40, 41, 42, 43, 0], [60, 61, 0, 7999, 7999]])
    mask = (ids != model.config.pad_token_id).long()
    target = torch.full((2, 4), model.config.decoder_start_token_id)
    target[:, 1:] = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with torch.no_grad():
        expected = model(input_ids=ids, attention_mask=mask, decoder_input_ids=target).logits
    encoder, first, later = (
        _OnnxPart(folder / f"{name}.onnx")
        for name in ("encoder_model", "decoder_model", "decoder_with_past_model")
    )
    states = encoder({"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    feeds = {"encoder_attention_mask": mask.numpy()}
    found = first(
        feeds
        | {"input_ids": target[:, :1].numpy(), "encoder_hidden_states": states["last_hidden_state"]}
    )
    difference = 0.0
    for step in range(target.shape[1]):
        right = expected[:, step].numpy()
        difference = max(difference, float(np.abs(found["logits"][:, 0] - right).max()))
        feeds |= {name.replace("present", "past_key_values"): x for name, x in found.items()}
        feeds["input_ids"] = target[:, step + 1 : step + 2].numpy()
        if step + 1 < target.shape[1]:
            found = later({name: x for name, x in feeds.items() if name != "logits"})
    if not difference < LOGITS_TOLERANCE:
        raise ExportMismatch(f"ONNX and torch differ by up to {difference:.2e}")
    return difference


class _OnnxPart:
    """An exported file in ONNX Runtime: arrays by name in and out."""

    def __init__(self, path: Path) -> None:
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        self._names = [output.name for output in self._session.get_outputs()]

    def __call__(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(self._names, self._session.run(None, dict(feeds)), strict=True))


def _write_samples(folder: Path, model: Any, training: Training) -> list[tuple[str, str]]:
    """Write golden samples: texts, and the tokens and texts that have to come out."""
    vocabulary = training.vocabulary
    written = translate(model, vocabulary, EVERYDAY, model.generation_config)
    (folder / "samples").mkdir(exist_ok=True)
    examples = []
    for index, (text, tokens) in enumerate(zip(EVERYDAY, written, strict=True)):
        english = vocabulary.decode(tokens)
        sample = {"text": text, "translation": english, "tokens": tokens}
        path = folder / "samples" / f"{index}.json"
        path.write_text(json.dumps(sample, ensure_ascii=False, indent=2) + "\n")
        examples.append((text, english))
    return examples


def _write_results(training: Training, scores: Scores, results: Path) -> None:
    progress = training.progress
    write_results(
        results / f"{NAME}-2.json",
        {
            "model": NAME,
            "version": "2",
            "data": "deu-eng.zip (Tatoeba), multi30k (train); test_2016_flickr",
            "bleu": scores.bleu,
            "chrf": scores.chrf,
            "signature": scores.signature,
            "train_s": round(progress.train_s, 1),
            "train_cpu_s": round(progress.cpu_s, 1),
            "machine": machine(),
            "settings": asdict(training.settings),
            "curve": progress.curve,
        },
    )
    points = [(point["step"], math.exp(-point["captions_loss"])) for point in progress.curve]
    title = f"{NAME}: probability of the right token (geometric mean), Multi30k validation, %"
    draw_curve(results / f"{NAME}-2.png", title, points, "step")
