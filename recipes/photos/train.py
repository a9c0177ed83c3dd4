"""Training of `photos`: SGD for biases and head, Muon for filters, small pictures first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.common import augment, checkpoint, loop
from recipes.common.data import Dataset, Pictures
from recipes.photos.model import Norm, PhotoNet
from recipes.photos.muon import Muon
from recipes.photos.workers import MicroBatch, Workers

# Of all pixels of the training split, on the 0..1 scale.
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
WHITENING_ROWS = 5000
CHANNELS_LAST = {"memory_format": torch.channels_last}


@dataclass(frozen=True)
class Settings:
    """What decides the outcome, and is stored in the checkpoint."""

    seed: int = 7
    epochs: int = 56
    small_epochs: int = 20                # the first epochs see pictures of `small_size`
    small_size: int = 24
    batch_size: int = 2000
    micro_batch: int = 250                # rows that share one batch normalization
    filter_lr: float = 0.24
    filter_momentum: float = 0.6
    bias_lr: float = 0.053
    head_lr: float = 0.67
    momentum: float = 0.85
    weight_decay: float = 2e-6            # per row of a batch
    label_smoothing: float = 0.2
    translate: int = 4
    cutout: int = 12
    whitening_bias_epochs: int = 3
    calibration_rows: int = 10_000
    bfloat16: bool = False                # activations in half the bytes; weights stay float32


def normalized(images: Pictures) -> Tensor:
    """Turn (n, 32, 32, 3) bytes into normalized float32 (n, 3, 32, 32)."""
    x = images.astype(np.float32) * np.float32(1 / 255)
    x = (x - np.float32(MEAN)) / np.float32(STD)
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def spread(rows: Tensor, count: int) -> Tensor:
    """Take `count` rows evenly over the whole set, for a file may be sorted by class."""
    return rows[:: max(1, len(rows) // count)][:count]


class Training:
    """One training of the net: its data, its optimizers and where it stands."""

    def __init__(self, data: Dataset, settings: Settings, checkpoints: Path) -> None:
        """Prepare a fresh training, then go on from the checkpoint if there is one."""
        self.settings, self.path = settings, checkpoints / "photos.pt"
        self.device = loop.default_device()
        images, self.labels = normalized(data.train.images), torch.from_numpy(data.train.labels)
        self.test_images = normalized(data.test.images)
        self.test_labels = torch.from_numpy(data.test.labels)
        torch.manual_seed(settings.seed)
        self.side = torch.randint(0, 2, (len(images),))
        self.model = PhotoNet(len(data.classes))
        self.model.whiten(spread(images, WHITENING_ROWS))
        self.model.to(self.device, **CHANNELS_LAST)
        count = torch.get_num_threads() if self.device.type == "cpu" else 1
        self.workers = Workers(self.model, count, self._forward_backward)
        self.padded = functional.pad(images, (settings.translate,) * 4, mode="reflect")
        self.sgd, self.muon = self._optimizers()
        self.progress = checkpoint.resume(
            self.path, asdict(settings), model=self.model, sgd=self.sgd, muon=self.muon
        )

    def _optimizers(self) -> tuple[torch.optim.SGD, Muon]:
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
        return sgd, Muon(filters, lr=s.filter_lr, momentum=s.filter_momentum)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the data."""
        return len(self.labels) // self.settings.batch_size

    def run(self) -> None:
        """Train to the end, saving after every epoch."""
        s, per_epoch = self.settings, self.steps_per_epoch
        done = self.progress.epoch * per_epoch
        with loop.progress_bar("photos", s.epochs * per_epoch, done) as bar:
            for epoch in range(self.progress.epoch, s.epochs):
                self._train_epoch(epoch, bar)
                parts = {"model": self.model, "sgd": self.sgd, "muon": self.muon}
                checkpoint.save(self.path, asdict(s), self.progress, **parts)
        self._calibrate()

    def _train_epoch(self, epoch: int, bar: loop.ProgressBar) -> None:
        watch, seen, loss_sum, right = loop.Stopwatch(), 0, 0.0, 0
        if epoch >= self.settings.whitening_bias_epochs:
            self.workers.freeze(lambda net: net.whitening.bias)
        for step, (images, labels) in enumerate(self._batches(epoch)):
            self._set_rates(epoch * self.steps_per_epoch + step)
            loss, hits = self._step(images, labels)
            seen, loss_sum, right = seen + len(labels), loss_sum + loss, right + hits
            bar.advance(f"loss {loss_sum / seen:.3f}, training accuracy {right / seen:.3f}")
        self.progress.add(watch)
        self.progress.epoch = epoch + 1
        self._record(loss_sum / seen, right / seen, bar)

    def _record(self, loss: float, train_accuracy: float, bar: loop.ProgressBar) -> None:
        """Add a point to the learning curve, from a tenth of the test split until the end.

        The figure is shown, never acted upon: nothing is selected or stopped by it.
        """
        last = self.progress.epoch == self.settings.epochs
        rows = slice(None, None, 1 if last else 10)
        logits = loop.predict(self.model, self.test_images[rows])
        point = {
            "epoch": self.progress.epoch,
            "seconds": round(self.progress.train_s, 1),
            "cpu_seconds": round(self.progress.cpu_s, 1),
            "train_loss": round(loss, 4),
            "train_accuracy": round(train_accuracy, 4),
            "test_accuracy": round(loop.accuracy(logits, self.test_labels[rows]), 4),
        }
        self.progress.curve.append(point)
        bar.say("  ".join(f"{name} {value}" for name, value in point.items()))

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        s, generator = self.settings, loop.epoch_generator(self.settings.seed, epoch)
        size = s.small_size if epoch < s.small_epochs else 32
        for rows in loop.batches(len(self.labels), s.batch_size, generator):
            images = augment.random_translate(self.padded[rows], 32, generator)
            images = augment.alternating_flip(images, rows, epoch, self.side)
            images = augment.random_cutout(images, s.cutout, generator)
            yield augment.resized(images, size), self.labels[rows]

    def _step(self, images: Tensor, labels: Tensor) -> tuple[float, int]:
        size = self.settings.micro_batch
        parts = list(zip(images.split(size), labels.split(size), strict=True))
        loss, right = self.workers.gradients(parts)
        self.sgd.step()
        self.muon.step()
        return loss, right

    def _forward_backward(self, model: nn.Module, part: MicroBatch) -> tuple[float, int]:
        images, labels = part[0].to(self.device, **CHANNELS_LAST), part[1].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            logits, _ = model(images)
        # The sum, not the mean: the learning rates are made for it.
        loss = functional.cross_entropy(
            logits.float(), labels, label_smoothing=self.settings.label_smoothing, reduction="sum"
        )
        loss.backward()
        return loss.item(), int((logits.argmax(1) == labels).sum().item())

    def _set_rates(self, step: int) -> None:
        """All rates fall in a straight line; the whitening bias is done after a few epochs."""
        s, per_epoch = self.settings, self.steps_per_epoch
        left = 1 - step / (s.epochs * per_epoch)
        left_whitening = max(0.0, 1 - step / (s.whitening_bias_epochs * per_epoch))
        rates = (s.bias_lr * left_whitening, s.bias_lr * left, s.head_lr * left)
        for group, rate in zip(self.sgd.param_groups, rates, strict=True):
            group["lr"] = rate
        self.muon.param_groups[0]["lr"] = s.filter_lr * left

    @torch.no_grad()
    def _calibrate(self) -> None:
        """Measure the statistics of batch normalization anew, for the weights as they now are.

        On shuffled pictures with the changes of training: a micro-batch of one class, or of
        pictures learnt by heart, has statistics of its own, and costs a point of accuracy.
        """
        norms = [m for m in self.model.modules() if isinstance(m, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None          # a plain average over all that follows
        self.model.train()
        count = self.settings.calibration_rows // self.settings.batch_size
        for images, _ in islice(self._batches(self.settings.epochs), count):
            for part in images.split(self.settings.micro_batch):
                self.model(part.to(self.device, **CHANNELS_LAST))
        self.model.eval()
