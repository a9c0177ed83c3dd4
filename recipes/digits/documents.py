"""The texts that travel with `digits`: model card and licence."""

from __future__ import annotations

from recipes.common.publish import Published

LICENSE = """\
Weights
-------
The weights in this folder were trained by the recipe recipes/digits of this project, from a
random start, and are licensed under the Apache License, Version 2.0
(https://www.apache.org/licenses/LICENSE-2.0).

Data
----
They were trained and measured on MNIST: Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database
of handwritten digits", derived from NIST Special Databases 1 and 3. Its authors ask to be cited;
copies are commonly distributed under Creative Commons Attribution-Share Alike 3.0
(https://creativecommons.org/licenses/by-sa/3.0/). The subset of 10,000 training digits was taken
from a public repository under the MIT licence.

The pictures and tensors in samples/ show 16 digits of MNIST's official test split and stay under
the terms of the data.
"""

ARCHITECTURE = {
    "1": "Fully connected: 784 inputs, hidden layers of 384 and 128 rectified units, 10 outputs.",
    "2": (
        "Convolutional: one 5 x 5 convolution (32 channels), then twice two 3 x 3 convolutions\n"
        "(48 and 96 channels), each with batch normalization and rectification; maximum pooling\n"
        "between the stages, a global average, and one linear layer. The average is the\n"
        "`embedding`."
    ),
}
REMARK = {
    "1": "They show what this version is not made for: it wants digits centred and of full size.",
    "2": "They show what this version is made for: digits anywhere, of any size and pen.",
}
OUTPUTS = {
    "1": "`logits` float32 (N, 10)",
    "2": "`logits` float32 (N, 10), `embedding` float32 (N, 96)",
}
TRAINING = {
    "1": (
        "Digits are rotated, scaled, sheared, shifted and bent a little; AdamW with one cycle of\n"
        "the learning rate; the weights are a running average over the last thousand steps or so."
    ),
    "2": (
        "Half of the digits are treated as in version 1. The other half are made thicker or\n"
        "thinner, scaled between 0.45 and 1.15, shifted by up to 6 pixels either way, rotated,\n"
        "sheared and bent, and vary in contrast, as digits drawn by mouse do. AdamW with one\n"
        "cycle of the learning rate; the weights are a running average over the last thousand\n"
        "steps or so."
    ),
}


def card(version: str, published: Published, facts: dict[str, str]) -> str:
    """Return CARD.md of one version; `facts` are further rows of its table of figures."""
    rows = {
        "accuracy on the official test split (10,000 digits)": f"{published.accuracy:.2%}",
        **facts,
        "largest difference between the ONNX file and torch": (
            f"{published.largest_difference:.1e}"
        ),
        "size of model.onnx": f"{published.model_bytes:,} bytes",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    samples = ", ".join(f"`{name}` (row {row})" for name, row in published.pictures.items())
    return f"""\
# digits, version {version}

Names the handwritten digit, 0 to 9, in a grey picture of 28 x 28.

{ARCHITECTURE[version]}

- Input: `image` float32 (N, 1, 28, 28), light ink on dark ground, (value / 255 - 0.1307) / 0.3081
- Outputs: {OUTPUTS[version]}

## Figures

| | |
|---|---|
{table}

Accuracy is that of `model.onnx` in ONNX Runtime. Drawn digits are 2,000 per row, drawn by
`recipes/digits/strokes.py` with a pen of random width at random places, and were never trained on.
{REMARK[version]} No checkpoint was chosen by the test split:
the weights are those after the last epoch.

## Training

{TRAINING[version]}

10,000 digits of MNIST's training split were used, none of them in the test split. Settings are
in `recipes/digits/train.py`, the learning curve in `recipes/results/digits-{version}.json`.

Reproduce it with

```
python -m pip install -r recipes/requirements.txt
python -m recipes.digits --data FOLDER_OF_MNIST --version {version} --out model_repo
```

Seeds are fixed. Order of summation differs between processors, so the last digits of weights and
the second decimal of the accuracy may differ elsewhere.

## Data and licence

MNIST (Y. LeCun, C. Cortes, C. J. C. Burges). See `LICENSE` for its terms and those of the weights.
`samples/` holds 16 digits of the official test split, as PNG with the right label in the name, and
as golden tensors: {samples}.

## Limits

Made for single digits. A picture without a digit, or with several, still gets one of ten names.
"""
