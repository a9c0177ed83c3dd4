"""Training of `photos`: SGD for biases and head, Muon for filters, small pictures first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from recipes.common import augment, loop, training
from recipes.common.data import Dataset, Pictures
from recipes.common.muon import Muon
from recipes.common.workers import MicroBatch
from recipes.photos.model import Norm, PhotoNet

# Of all pixels of the training split, on the 0..1 scale.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
SIZE, WHITENING_ROWS = 32, 5000


@dataclass(frozen=True)
class Settings(training.Settings):
    """What decides the outcome, and is stored in the checkpoint."""

    epochs: int = 56
    batch_size: int = 2000
    micro_batch: int = 250
    label_smoothing: float = 0.2
    calibration_rows: int = 10_000
    small_epochs: int = 20                # the first epochs see pictures of `small_size`
    small_size: int = 24
    filter_lr: float = 0.24
    filter_momentum: float = 0.6
    bias_lr: float = 0.053
    head_lr: float = 0.67
    momentum: float = 0.85
    weight_decay: float = 2e-6            # per row of a batch
    translate: int = 4
    cutout: int = 12
    whitening_bias_epochs: int = 3


def normalized(images: Pictures) -> Tensor:
    """Turn (n, 32, 32, 3) bytes into normalized float32 (n, 3, 32, 32)."""
    x = images.astype(np.float32) * np.float32(1 / 255)
    x = (x - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


class Training(training.EpochTraining[Settings]):
    """One training of `photos`. The learning rates are made for a loss summed over the batch."""

    name = "photos"
    model: PhotoNet

    def __init__(self, data: Dataset, settings: Settings, checkpoints: Path) -> None:
        """Prepare a fresh training, then go on from the checkpoint if there is one."""
        images = normalized(data.train.images)
        self.test_images = normalized(data.test.images)
        torch.manual_seed(settings.seed)
        self.side = torch.randint(0, 2, (len(images),))
        model = PhotoNet(len(data.classes))
        model.whiten(training.spread(images, WHITENING_ROWS))
        self.padded = functional.pad(images, (settings.translate,) * 4, mode="reflect")
        labels, test_labels = map(torch.from_numpy, (data.train.labels, data.test.labels))
        super().__init__(settings, model, labels, test_labels, checkpoints)

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return SGD for biases and the head, Muon for filters."""
        s, model = self.settings, self.model
        biases = [m.bias for m in model.modules() if isinstance(m, Norm)]
        decay = s.weight_decay * s.batch_size
        groups = [
            {"params": [model.whitening.bias], "lr": s.bias_lr, "weight_decay": decay / s.bias_lr},
            {"params": biases, "lr": s.bias_lr, "weight_decay": decay / s.bias_lr},
            {"params": [model.head.weight], "lr": s.head_lr, "weight_decay": decay / s.head_lr},
        ]
        sgd = torch.optim.SGD(groups, lr=s.bias_lr, momentum=s.momentum, nesterov=True)
        filters = [p for p in model.parameters() if p.ndim == 4 and p.requires_grad]
        return {"sgd": sgd, "muon": Muon(filters, lr=s.filter_lr, momentum=s.filter_momentum)}

    def set_rates(self, step: int) -> None:
        """All rates fall in a straight line; the whitening bias is done after a few epochs."""
        s, per_epoch = self.settings, self.steps_per_epoch
        left = 1 - step / (s.epochs * per_epoch)
        left_whitening = max(0.0, 1 - step / (s.whitening_bias_epochs * per_epoch))
        rates = (s.bias_lr * left_whitening, s.bias_lr * left, s.head_lr * left)
        for group, rate in zip(self.optimizers["sgd"].param_groups, rates, strict=True):
            group["lr"] = rate
        self.optimizers["muon"].param_groups[0]["lr"] = s.filter_lr * left

    def begin_epoch(self, epoch: int) -> None:
        """Freeze the whitening bias once it has learnt."""
        if epoch >= self.settings.whitening_bias_epochs:
            self.workers.freeze(lambda net: net.whitening.bias)

    def batches(self, epoch: int) -> Iterator[MicroBatch]:
        """Yield pictures, cut, mirrored and covered in part, with their labels."""
        s, generator = self.settings, loop.epoch_generator(self.settings.seed, epoch)
        size = s.small_size if epoch < s.small_epochs else SIZE
        for rows in loop.batches(len(self.labels), s.batch_size, generator):
            images = augment.random_translate(self.padded[rows], SIZE, generator)
            images = augment.alternating_flip(images, rows, epoch, self.side)
            images = augment.random_cutout(images, s.cutout, generator)
            yield augment.resized(images, size), self.labels[rows]

    def prepared(self, part: MicroBatch) -> tuple[Tensor, Tensor]:
        """Bring pictures and labels to the device."""
        images, labels = part
        return images.to(self.device, **training.CHANNELS_LAST), labels.to(self.device)

    def test_logits(self, rows: slice) -> Tensor:
        """Return logits in float32, as the file will compute them."""
        return loop.predict(self.model, self.test_images[rows])
