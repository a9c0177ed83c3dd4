"""Training of both nets of `digits`: AdamW, one cycle, averaged weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.common import augment, checkpoint, loop
from recipes.common.augment import Warp
from recipes.common.data import Dataset, Pictures
from recipes.digits.models import Convolutional, FullyConnected

MEAN, STD = 0.1307, 0.3081                # of MNIST's training pixels, on the 0..1 scale


MILD = Warp(
    rotate_degrees=12, scale=(0.9, 1.1), stretch=0.08, shear=0.15, shift=1.5, elastic=0.8
)
# Digits drawn by mouse are small or large, anywhere in the picture, and nobody centred them.
AS_IF_DRAWN = Warp(
    rotate_degrees=15, scale=(0.45, 1.15), stretch=0.15, shear=0.25, shift=6, elastic=0.8
)


@dataclass(frozen=True)
class Settings:
    """What decides the outcome, and is stored in the checkpoint."""

    epochs: int
    warp: Warp
    seed: int = 7
    batch_size: int = 100
    peak_lr: float = 2e-3
    weight_decay: float = 0.02
    label_smoothing: float = 0.05
    average_decay: float = 0.999          # per step, of the averaged weights
    drawn: Warp | None = None             # of every second picture, with thickness and contrast


@dataclass(frozen=True)
class Version:
    """A net and how it is trained."""

    name: str
    build: Callable[[], nn.Module]
    settings: Settings
    outputs: tuple[str, ...]


VERSIONS = {
    "1": Version(
        "1",
        FullyConnected,
        Settings(
            epochs=25,
            warp=MILD,
        ),
        ("logits",),
    ),
    "2": Version(
        "2",
        Convolutional,
        Settings(
            epochs=25,
            peak_lr=3e-3,
            warp=MILD,
            drawn=AS_IF_DRAWN,
        ),
        ("logits", "embedding"),
    ),
}


def ink(images: Pictures) -> Tensor:
    """Turn (n, 28, 28) bytes into (n, 1, 28, 28) float32 in 0..1."""
    return torch.from_numpy(images.astype(np.float32)[:, None] * np.float32(1 / 255))


def normalized(images: Tensor) -> Tensor:
    """Turn 0..1 into what the nets take."""
    return (images - MEAN) / STD


class Training:
    """One training of one version: its data, its net and where it stands."""

    def __init__(self, data: Dataset, version: Version, checkpoints: Path) -> None:
        """Prepare a fresh training, then go on from the checkpoint if there is one."""
        self.version, self.settings = version, version.settings
        self.path = checkpoints / f"digits-{version.name}.pt"
        self.device = loop.default_device()
        self.images, self.labels = ink(data.train.images), torch.from_numpy(data.train.labels)
        self.test_images = normalized(ink(data.test.images))
        self.test_labels = torch.from_numpy(data.test.labels)
        torch.manual_seed(self.settings.seed)
        self.model = version.build().to(self.device, memory_format=torch.channels_last)
        self.average = copy.deepcopy(self.model)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), self.settings.peak_lr, weight_decay=self.settings.weight_decay
        )
        self.progress = checkpoint.resume(self.path, asdict(self.settings), **self._parts())

    def _parts(self) -> dict[str, object]:
        return {"model": self.model, "average": self.average, "optimizer": self.optimizer}

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the data."""
        return len(self.labels) // self.settings.batch_size

    def run(self) -> None:
        """Train to the end, saving after every epoch."""
        s, title = self.settings, f"digits version {self.version.name}"
        done = self.progress.epoch * self.steps_per_epoch
        with loop.progress_bar(title, s.epochs * self.steps_per_epoch, done) as bar:
            for epoch in range(self.progress.epoch, s.epochs):
                self._train_epoch(epoch, bar)
                checkpoint.save(self.path, asdict(s), self.progress, **self._parts())

    def _train_epoch(self, epoch: int, bar: loop.ProgressBar) -> None:
        watch, loss_sum = loop.Stopwatch(), 0.0
        torch.manual_seed(self.settings.seed * 1_000_003 + epoch)        # dropout's
        generator = loop.epoch_generator(self.settings.seed, epoch)
        order = loop.batches(len(self.labels), self.settings.batch_size, generator)
        for step, rows in enumerate(order, epoch * self.steps_per_epoch):
            loss_sum += self._step(step, self._augmented(rows, generator), self.labels[rows])
            bar.advance()
        self.progress.add(watch)
        self.progress.epoch = epoch + 1
        self._record(loss_sum / self.steps_per_epoch, bar)

    def _augmented(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        s, images = self.settings, self.images[rows]
        if s.drawn is None:
            return normalized(augment.random_warp(images, s.warp, generator))
        near, far = images[::2], images[1::2]
        near = augment.random_warp(near, s.warp, generator)
        far = augment.random_warp(augment.random_thickness(far, generator), s.drawn, generator)
        mixed = torch.stack([near, augment.random_contrast(far, generator)], 1)
        return normalized(mixed.flatten(0, 1))              # back in the order of `rows`

    def _step(self, step: int, images: Tensor, labels: Tensor) -> float:
        self.model.train()
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate(step)
        logits = self.model(images.to(self.device))[0]
        loss = functional.cross_entropy(
            logits, labels.to(self.device), label_smoothing=self.settings.label_smoothing
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self._follow(step)
        return loss.item()

    def _rate(self, step: int) -> float:
        """Rise over the first tenth, fall along a cosine over the rest."""
        done = step / (self.settings.epochs * self.steps_per_epoch)
        if done < 0.1:
            return self.settings.peak_lr * (0.05 + 0.95 * done / 0.1)
        return self.settings.peak_lr * 0.5 * (1 + math.cos(math.pi * (done - 0.1) / 0.9))

    @torch.no_grad()
    def _follow(self, step: int) -> None:
        """Move the averaged net a little towards the trained one."""
        decay = min(self.settings.average_decay, (step + 1) / (step + 10))
        own, new = self.average.state_dict(), self.model.state_dict()
        for name, value in own.items():
            if value.is_floating_point():
                value.lerp_(new[name], 1 - decay)
            else:
                value.copy_(new[name])

    def _record(self, loss: float, bar: loop.ProgressBar) -> None:
        """Add a point to the learning curve; it is shown, never acted upon."""
        logits = loop.predict(self.average, self.test_images)
        point = {
            "epoch": self.progress.epoch,
            "seconds": round(self.progress.train_s, 1),
            "train_loss": round(loss, 4),
            "test_accuracy": round(loop.accuracy(logits, self.test_labels), 4),
        }
        self.progress.curve.append(point)
        if self.progress.epoch % 5 == 0:
            bar.say("  ".join(f"{name} {value}" for name, value in point.items()))
