"""What Hugging Face's `generate` answers over the toy model, written beside this file.

    python -m tests.engine.generation.hugging_face

writes what the tests compare with. Needs torch and transformers (the extra `networks`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput

from tests.engine.generation.settings_table import SETTINGS, Changes
from tests.engine.generation.toy import END, PAD, START, Tables

EXPECTED = Path(__file__).with_name("expected_toy.json")
SOURCES = 6
TABLES: list[tuple[int, int, int, float]] = [(40, SOURCES, 0, 0.5), (300, SOURCES, 1, 4.0)]


class _Config(PretrainedConfig):
    model_type = "toy"
    is_encoder_decoder = True

    def __init__(self, **changes: Any) -> None:
        super().__init__(pad_token_id=PAD, decoder_start_token_id=START, **changes)
        self.pad_token_id, self.decoder_start_token_id = PAD, START
        self.num_hidden_layers, self.is_encoder_decoder = 1, True


class _Encoder(torch.nn.Module):
    main_input_name = "input_ids"

    def forward(self, input_ids: Any, **_: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=input_ids[:, :, None].float())


class Toy(PreTrainedModel, GenerationMixin):
    """The toy model in torch, for `generate`."""

    config_class = _Config
    main_input_name = "input_ids"

    def __init__(self, tables: Tables) -> None:
        super().__init__(_Config(vocab_size=tables.vocabulary_size, eos_token_id=END))
        self.tables, self.encoder = tables, _Encoder()
        self.anything = torch.nn.Parameter(torch.zeros(1))

    def get_encoder(self, *_: Any, **__: Any) -> torch.nn.Module:
        return self.encoder

    def forward(
        self, encoder_outputs: Any = None, decoder_input_ids: Any = None, **_: Any
    ) -> Seq2SeqLMOutput:
        tables = self.tables
        number = encoder_outputs.last_hidden_state[:, 0, 0].long()
        last = decoder_input_ids[:, -1]
        before = decoder_input_ids[:, -2] if decoder_input_ids.shape[1] > 1 else last
        rows = torch.from_numpy(tables.last)[last] + torch.from_numpy(tables.before)[before]
        logits = rows + torch.from_numpy(tables.source)[number]
        logits = logits + torch.from_numpy(tables.position)[decoder_input_ids.shape[1]]
        return Seq2SeqLMOutput(logits=logits[:, None])


def generation_config(changes: Changes, start: int, end: int, pad: int) -> GenerationConfig:
    """Return the same settings in Hugging Face's words."""
    asked = {"beams": 1, "end": (end,), "max_new_tokens": 20, **changes}
    return GenerationConfig(
        num_beams=asked["beams"],
        num_return_sequences=asked.get("n_best", 1),
        max_new_tokens=asked["max_new_tokens"],
        min_new_tokens=asked.get("min_new_tokens"),
        length_penalty=asked.get("length_penalty", 1.0),
        early_stopping=asked.get("early_stopping", False),
        repetition_penalty=asked.get("repetition_penalty", 1.0),
        no_repeat_ngram_size=asked.get("no_repeat_ngram", 0),
        bad_words_ids=[list(word) for word in asked.get("bad_words", ())] or None,
        suppress_tokens=list(asked.get("suppressed", ())) or None,
        forced_bos_token_id=asked.get("forced_first"),
        forced_eos_token_id=asked.get("forced_last"),
        eos_token_id=list(asked["end"]),
        pad_token_id=pad,
        decoder_start_token_id=start,
        do_sample=False,
        use_cache=False,
        return_dict_in_generate=True,
        output_scores=True,
    )


def until_end(tokens: list[int], ends: tuple[int, ...]) -> list[int]:
    """Return the tokens up to the end, without the start and what pads them."""
    tokens = tokens[1:]
    place = next((k for k, token in enumerate(tokens) if token in ends), len(tokens))
    return tokens[: place + 1]


def answers(model: Any, sentence: list[int], changes: Changes, **specials: int) -> list[Any]:
    """Return tokens, and the score of a beam search, of each sequence that `generate` returns."""
    config = generation_config(changes, **specials)
    found = model.generate(torch.tensor([sentence]), generation_config=config)
    scores = [None] if config.num_beams == 1 else [float(s) for s in found.sequences_scores]
    ends = tuple(config.eos_token_id)
    sequences = [until_end(tokens, ends) for tokens in found.sequences.tolist()]
    return [list(pair) for pair in zip(sequences, scores, strict=True)]


def expected() -> dict[str, Any]:
    """Return what `generate` answers: by settings, then a list by tables and sources."""
    models = [Toy(Tables(*numbers)) for numbers in TABLES]
    specials = {"start": START, "end": END, "pad": PAD}
    return {
        name: [
            answers(model, [number], changes, **specials)
            for model in models
            for number in range(SOURCES)
        ]
        for name, changes in SETTINGS.items()
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    lines = (f"{json.dumps(name)}: {json.dumps(found)}" for name, found in expected().items())
    EXPECTED.write_text("{\n" + ",\n".join(lines) + "\n}\n")
