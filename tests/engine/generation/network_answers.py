"""What Hugging Face's `generate` answers over the networks of `export_networks`.

    python -m tests.engine.generation.network_answers

writes what the tests compare with. Needs torch and the Transformers that the networks were exported
with.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.engine.generation.export_networks import MARIAN, SIZES, T5_SIZES, random_model
from tests.engine.generation.hugging_face import answers
from tests.engine.generation.network_settings import ENDS, NETWORK_SETTINGS, SENTENCES

EXPECTED = Path(__file__).with_name("expected_networks.json")
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "marian": ("Marian", {**SIZES, **MARIAN, "scale_embedding": True}),
    "marian_eager_merged": ("Marian", {**SIZES, **MARIAN, "attn_implementation": "eager"}),
    "marian_whole": ("Marian", {**SIZES, **MARIAN}),
    "t5": ("T5", T5_SIZES),
    "t5_gated_merged": (
        "T5",
        {**T5_SIZES, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mbart": ("MBart", {**SIZES, "decoder_layers": 1}),
    "m2m100": ("M2M100", {**SIZES, "decoder_layers": 1}),
}


def answers_of(name: str) -> dict[str, Any]:
    """Return the start token of a network, and its answers by settings and sentence.

    Weights are drawn anew; another Transformers may draw others.
    """
    family, options = OPTIONS[name]
    model: Any = random_model(family, **options)
    config = model.config
    start = config.decoder_start_token_id
    start = config.eos_token_id if start is None else start
    specials = {"start": start, "end": ENDS[0], "pad": config.pad_token_id}
    model.generation_config = type(model.generation_config)()  # nothing but what is asked for
    found = {
        asked: [answers(model, sentence, changes, **specials) for sentence in SENTENCES]
        for asked, changes in NETWORK_SETTINGS.items()
    }
    return {"transformers": transformers.__version__, "start": start, "answers": found}


def main() -> None:
    """Write the answers over all networks."""
    torch.set_num_threads(1)
    lines = [f"{json.dumps(name)}: {json.dumps(answers_of(name))}" for name in OPTIONS]
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
