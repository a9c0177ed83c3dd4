"""The texts that travel with `translate-de-en`: model card and licence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LICENSE = """\
Weights
-------
The weights in this folder were trained by the recipe recipes/translate_de_en of this project, from
a random start, and are licensed under the Apache License, Version 2.0
(https://www.apache.org/licenses/LICENSE-2.0).

Data
----
They were trained on sentence pairs of Tatoeba (https://tatoeba.org; CC BY 2.0; the selection of
https://www.manythings.org/anki of 2018) and on the training split of Multi30k (D. Elliott,
S. Frank, K. Sima'an, L. Specia, "Multi30K: Multilingual English-German Image Descriptions",
W16-3210, 2016), which may be used for research and education. The corpora are not part of this
folder; the vocabulary was counted on their training parts.
"""


def card(
    version: str,
    facts: Mapping[str, str],
    examples: Sequence[tuple[str, str]],
    signature: str,
) -> str:
    """Return CARD.md; `facts` are the rows of its table of figures."""
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    shown = "\n".join(f"| {german} | {english} |" for german, english in examples)
    return f"""\
# translate-de-en, version {version}

Translates German sentences into English. It is small on purpose: it fits into a repository and
starts at once.

A transformer of the Marian architecture: width 256, six encoder and two decoder layers of eight
heads, feed-forward width 1,024 with SiLU, sinusoidal positions, one embedding for both languages
and for the output, a joint SentencePiece vocabulary of 8,000 unigram pieces. The files are laid out
as Hugging Face Optimum exports them: `encoder_model.onnx`, `decoder_model.onnx`,
`decoder_with_past_model.onnx`. Weights are int8 with one scale per output, and lie once in
`model.onnx_data`, which all three graphs refer to. Float32 computation with exactly these values is
what the figures below are of.

## Figures

| | |
|---|---|
{table}

Beam search with four beams, as `generation_config.json` says. Signature: `{signature}`

| German | English |
|---|---|
{shown}

## Training

Tatoeba without one in a hundred English sentences, and Multi30k's training split twice per epoch,
both without any sentence, compared by words, that stands in Multi30k's validation or test files.
Batches of up to 3,072 tokens, label smoothing 0.1, dropout 0.1, AdamW at 1.2e-3 after 1,000 steps
of warm-up, falling in a straight line over the last part; what ships is the running mean of the
weights. Version 1 is an early checkpoint of the same run, so that a swap of versions can be seen in
quality. Settings are in `recipes/translate_de_en/train.py`, the learning curve in
`recipes/results/translate-de-en-2.json`.

Reproduce it with

```
python -m pip install -r recipes/requirements.txt
python -m recipes.translate_de_en --data FOLDER --out model_repo
```

The folder holds `deu-eng.zip` (Tatoeba) and `multi30k/`. Seeds are fixed; how sums round depends on
the machine and its threads.

## Limits

It knows everyday sentences and descriptions of pictures. Law, medicine, names, long and involved
sentences are beyond it, and it may say confidently what the German does not. Sentences of more than
100 tokens were not trained.
"""
