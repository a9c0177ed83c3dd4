"""What Hugging Face's `generate` answers over a trained version of translate-de-en.

    python -m tests.engine.generation.trained_answers CHECKPOINT VERSION

adds the answers of the Transformers checkpoint to what the tests compare with, under the weights of
the version that was exported from it. Needs torch, transformers and sentencepiece.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from tests.engine.generation.settings_table import Changes

EXPECTED = Path(__file__).with_name("expected_trained.json")
WEIGHTS = "model.onnx_data"
SENTENCES = (
    "Wo ist der Bahnhof?",
    "Ich habe meinen Schlüssel verloren.",
    "Das Wetter ist heute schön.",
    "Zwei Männer stehen vor einem großen Haus und reden miteinander.",
    "Ein brauner Hund läuft über die Wiese und trägt einen Ball im Maul.",
    "Wir müssen morgen früh aufstehen, weil der Zug um sechs Uhr fährt.",
    "Eine Frau in einem roten Kleid spielt Geige, während Kinder im Park um sie herum sitzen.",
    "Ja.",
)
LIMITS: Changes = {"max_new_tokens": 40, "forced_last": 0}  # as generation_config.json has it
SETTINGS: dict[str, Changes] = {
    name: {**LIMITS, **changes}
    for name, changes in {
        "greedy": {},
        "greedy repetition": {"repetition_penalty": 1.3},
        "beams 2": {"beams": 2, "n_best": 2},
        "beams 4": {"beams": 4},
        "beams 4 early": {"beams": 4, "early_stopping": True, "length_penalty": 0.6},
        "beams 5 never": {"beams": 5, "early_stopping": "never", "length_penalty": 2.0},
        "beams 4 n-grams": {"beams": 4, "no_repeat_ngram": 3, "min_new_tokens": 6},
    }.items()
}


def digest(version: Path) -> str:
    """Return what names the weights of a version."""
    return hashlib.sha256((version / WEIGHTS).read_bytes()).hexdigest()


def record(checkpoint: Path) -> dict[str, Any]:
    """Return special tokens, sentences as tokens, and the answers by settings and sentence."""
    import sentencepiece
    import torch
    import transformers

    from tests.engine.generation.hugging_face import answers

    torch.set_num_threads(1)
    model = transformers.MarianMTModel.from_pretrained(checkpoint).eval()
    pieces = sentencepiece.SentencePieceProcessor(str(checkpoint / "source.spm"))
    vocabulary = json.loads((checkpoint / "vocab.json").read_text())
    model.generation_config = type(model.generation_config)()  # nothing but what is asked for
    config = model.config
    unknown, end, pad = vocabulary["<unk>"], config.eos_token_id, config.pad_token_id
    specials = {"start": config.decoder_start_token_id, "end": end, "pad": pad}
    sentences = [
        [*(vocabulary.get(piece, unknown) for piece in pieces.encode(text, out_type=str)), end]
        for text in SENTENCES
    ]
    found = {
        name: [answers(model, sentence, changes, **specials) for sentence in sentences]
        for name, changes in SETTINGS.items()
    }
    return {"specials": specials, "sentences": sentences, "answers": found}


def main() -> None:
    """Record the answers of one version."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("version", type=Path)
    asked = parser.parse_args()
    known = json.loads(EXPECTED.read_text()) if EXPECTED.exists() else {}
    known[digest(asked.version)] = record(asked.checkpoint)
    lines = [f"{json.dumps(name)}: {json.dumps(found)}" for name, found in known.items()]
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
