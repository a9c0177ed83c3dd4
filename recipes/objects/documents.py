"""The texts that travel with `objects`: model card and licence."""

from __future__ import annotations

from collections.abc import Mapping

from recipes.objects.model import EMBEDDING
from recipes.objects.train import MEAN, STD

LICENSE = """\
Weights: non-commercial research and teaching only
--------------------------------------------------
The weights in this folder were trained by the recipe recipes/objects of this project, from a
random start, on pictures of ImageNet. ImageNet's terms of access allow its pictures to be used
for non-commercial research and educational purposes only, and we pass that condition on: use
these weights for non-commercial research and teaching only. They are not under the licence of
this project's code. Whoever needs a model for other purposes trains this recipe on other pictures.

Data
----
Tiny ImageNet (200 classes of ImageNet at 64 x 64, made for the course CS231n at Stanford
University), from ImageNet: J. Deng, W. Dong, R. Socher, L.-J. Li, K. Li, L. Fei-Fei, "ImageNet: A
Large-Scale Hierarchical Image Database", CVPR 2009; O. Russakovsky et al., "ImageNet Large Scale
Visual Recognition Challenge", IJCV 2015. Terms of access: https://www.image-net.org/download.
The rights in the pictures lie with those who took them. No picture of it is in this folder.

The names in labels.txt are the first synonym of each class's synset in WordNet 3.0, Copyright 2006
by Princeton University, whose licence allows use and redistribution with that notice
(https://wordnet.princeton.edu/license-and-commercial-use).

The tensors in samples/ show pictures of CIFAR-10's test split (A. Krizhevsky, 2009), enlarged to
64 x 64. They are here to test that the file computes what it should, and show none of its classes
on purpose; the terms of CIFAR-10 apply to them.
"""


def card(figures: Mapping[str, str], version: str) -> str:
    """Return CARD.md; `figures` are the rows of its table."""
    table = "\n".join(f"| {name} | {value} |" for name, value in figures.items())
    return f"""\
# objects, version {version}

Names what a picture shows, out of 200 everyday objects, animals, places and dishes, and gives an
embedding by which similar pictures are found. **For non-commercial research and teaching only**: it
was trained on ImageNet's pictures (see `LICENSE`).

A residual net: a whitening convolution over 4 x 4 patches, four stages of 64, 128, 192 and
{EMBEDDING} channels with five residual blocks, a global average, a normalization, and one linear
layer. Batch normalization is folded into the convolutions.

- Input: `image` float32 (N, 3, 64, 64), RGB, (value / 255 - mean) / std with mean
  {MEAN} and std {STD}
- Outputs: `logits` float32 (N, 200); `embedding` float32 (N, {EMBEDDING}), the pooled and
  normalized features under the linear layer

## Figures

| | |
|---|---|
{table}

Weights are stored as int8 with one scale per output (`DequantizeLinear`) and computed with in
float32. Accuracies are those of `model.onnx` in ONNX Runtime, one look per picture. No checkpoint
was chosen by the validation split: the weights are those after the last epoch.

## Training

300 pictures of each class (60,000 of Tiny ImageNet's 100,000, re-encoded as WebP). Each step sees
a random part of 45 to 100 percent of each picture, stretched by up to a third and mirrored half of
the time. The first epochs see them at 40 x 40, the next ones at 48 x 48. Filters are trained by
Muon, the rest by AdamW, all rates falling in a straight line; label smoothing 0.1. The statistics
of batch normalization are measured once more at the end, on nearly whole pictures. Settings are in
`recipes/objects/train.py`, the learning curve in `recipes/results/objects-{version}.json`. The
first 4 of the 23 epochs behind these very weights ran with a higher rate (0.12 for Muon) and
smaller crops (from 35 percent), which was changed because it learnt slowly; the recipe has the
later values only.

Reproduce it with

```
python -m pip install -r recipes/requirements.txt
python -m recipes.objects --data FOLDER --out model_repo
```

The folder holds `tiny_imagenet200.npz`: `train_img` (all files, one after another),
`train_offsets`, `train_labels`, the same for `test_`, and `classes`. Seeds are fixed; which worker
takes which part of a batch is not, so accuracy varies by a few tenths of a percent.

## Names

`labels.txt` holds the first synonym that WordNet gives for each class ("goldfish", "tailed frog").
Some are less usual than the thing: "lesser panda" is the red panda, "organ" the pipe organ.

## Limits

It gives one of its 200 names to every picture, also to what is none of them (people, texts,
drawings), and is wrong about as often as the figures say. It was trained on pictures of 64 x 64; a
large photograph is reduced to that size, and only its middle square is seen. ImageNet's pictures
were collected from the web in about 2010 and show what was photographed there and then: dishes,
dresses and tools of some parts of the world far more than of others. Similarity is that of the same
kind of thing in the same kind of setting; it recognizes no individual object, and must not be used
on faces.
"""
