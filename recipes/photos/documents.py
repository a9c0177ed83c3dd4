"""The texts that travel with `photos`: model card and licence."""

from __future__ import annotations

from collections.abc import Mapping

from recipes.common.publish import Published

LICENSE = """\
Weights
-------
The weights in this folder were trained by the recipe recipes/photos of this project, from a
random start, and are licensed under the Apache License, Version 2.0
(https://www.apache.org/licenses/LICENSE-2.0).

Data
----
They were trained and measured on CIFAR-10: A. Krizhevsky, "Learning Multiple Layers of Features
from Tiny Images", technical report, University of Toronto, 2009
(https://www.cs.toronto.edu/~kriz/cifar.html). Its author asks for that report to be cited and
states no further licence. The pictures are a labelled part of the 80 Million Tiny Images, which
were collected from the web; their rights lie with those who took them.

The pictures and tensors in samples/ show 16 pictures of CIFAR-10's test split. They are here to
test and to demonstrate the model, and stay under the terms of the data.
"""


LOOKS = {
    False: "one look per picture",
    True: "two looks per picture:\nthe graph averages over the picture and its mirror image",
}


OPTIONS = {True: "", False: " --no-mirror"}


def card(published: Published, facts: Mapping[str, str], version: str, mirrored: bool) -> str:
    """Return CARD.md; `facts` are further rows of its table of figures."""
    rows = {
        "accuracy on the official test split (10,000 pictures, JPEG copies)": (
            f"{published.accuracy:.2%}"
        ),
        **facts,
        "largest difference between the ONNX file and torch": (
            f"{published.largest_difference:.1e}"
        ),
        "size of model.onnx": f"{published.model_bytes:,} bytes",
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    samples = ", ".join(f"`{name}` (row {row})" for name, row in published.pictures.items())
    return f"""\
# photos, version {version}

Names what a small colour picture shows (airplane, automobile, bird, cat, deer, dog, frog, horse,
ship, truck), and gives an embedding by which similar pictures are found.

A residual net: a whitening convolution, three stages that each widen, halve the picture and add a
residual branch (64, 256, 256 channels), a global maximum and one linear layer. Batch normalization
is folded into the convolutions. It follows K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single
GPU" (arXiv:2404.00498).

- Input: `image` float32 (N, 3, 32, 32), RGB, (value / 255 - mean) / std with mean
  (0.4914, 0.4822, 0.4465) and std (0.2470, 0.2435, 0.2616)
- Outputs: `logits` float32 (N, 10); `embedding` float32 (N, 256), the pooled features under the
  linear layer

## Figures

| | |
|---|---|
{table}

Weights are stored as float16 and computed with in float32. Accuracy is that of `model.onnx` in ONNX
Runtime, {LOOKS[mirrored]}. The copy of CIFAR-10 used
here is lossy: every picture, of both splits, was kept as a JPEG of about 920 bytes, which makes it
harder than the original pixels; do not compare the figure with results on those. No checkpoint
was chosen by the test split: the weights are those after the last epoch.

## Training

All 50,000 training pictures, shifted by up to 4 pixels, mirrored in every second epoch, with a
square of 12 x 12 blanked. The first epochs see them at 24 x 24. Filters are trained by Muon, biases
and the head by SGD with Nesterov momentum, all rates falling in a straight line; label smoothing
0.2. The statistics of batch normalization are measured once more at the end. Settings are in
`recipes/photos/train.py`, the learning curve in `recipes/results/photos-{version}.json`.

Reproduce it with

```
python -m pip install -r recipes/requirements.txt
python -m recipes.photos --data FOLDER_OF_CIFAR10 --out model_repo{OPTIONS[mirrored]}
```

The folder holds CIFAR-10's binary version (`data_batch_1.bin` ...) or `cifar10_jpg.npz`. Seeds are
fixed; which worker takes which part of a batch is not, so sums round differently from run to run
and accuracy varies by a tenth or two of a percent.

## Data and licence

CIFAR-10 (A. Krizhevsky, 2009). See `LICENSE` for its terms and those of the weights. `samples/`
holds 16 pictures of the test split, as PNG of the decoded JPEG copies with the right label in the
name, and as golden tensors: {samples}.

## Limits

It knows ten names and gives one of them to every picture. It was trained on pictures of 32 x 32
that one object fills; a large photograph is reduced to that size first.
"""
