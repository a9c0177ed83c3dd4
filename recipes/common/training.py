"""Training of nets for pictures, epoch by epoch and by micro-batches; a recipe says the rest."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.common import checkpoint, loop
from recipes.common.workers import MicroBatch, Workers

CHANNELS_LAST = {"memory_format": torch.channels_last}


@dataclass(frozen=True)
class Settings:
    """What decides the outcome, and is stored in the checkpoint; each recipe adds its own."""

    epochs: int
    batch_size: int
    micro_batch: int                      # rows that share one batch normalization
    label_smoothing: float
    calibration_rows: int
    seed: int = 7
    bfloat16: bool = False                # activations in half the bytes; weights stay float32


S = TypeVar("S", bound=Settings)


class EpochTraining(ABC, Generic[S]):
    """One training of a net: its data, its optimizers and where it stands."""

    name: ClassVar[str]                   # of the bar, and of the checkpoint's file
    # The loss of a micro-batch is a sum over its rows; its gradient is divided by this.
    loss_divisor: float = 1.0

    def __init__(
        self, settings: S, model: nn.Module, labels: Tensor, test_labels: Tensor, folder: Path
    ) -> None:
        """Go on from the checkpoint in `folder` if there is one; `model` is fresh otherwise."""
        self.settings, self.labels, self.test_labels = settings, labels, test_labels
        self.path = folder / f"{self.name}.pt"
        self.device = loop.default_device()
        self.model = model.to(self.device, **CHANNELS_LAST)  # type: ignore[call-overload]
        count = len(os.sched_getaffinity(0)) if self.device.type == "cpu" else 1
        self.workers = Workers(self.model, count, self._forward_backward)
        self.optimizers = self.make_optimizers()
        self.progress = checkpoint.resume(self.path, asdict(settings), **self._parts())

    @abstractmethod
    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizers of the model's parameters, by their names in a checkpoint."""

    @abstractmethod
    def set_rates(self, step: int) -> None:
        """Set the learning rates for a step, counted from the start of the training."""

    @abstractmethod
    def batches(self, epoch: int) -> Iterator[MicroBatch]:
        """Yield the batches of an epoch: pairs of tensors with one row per picture."""

    @abstractmethod
    def prepared(self, part: MicroBatch) -> tuple[Tensor, Tensor]:
        """Return pictures and labels of some rows of a batch; workers call this side by side."""

    @abstractmethod
    def test_logits(self, rows: slice) -> Tensor:
        """Return what the net says to rows of the test split."""

    def begin_epoch(self, epoch: int) -> None:
        """Change what this epoch does otherwise than the one before."""

    def figures(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return what a point of the learning curve tells besides time and loss."""
        return {"test_accuracy": round(loop.accuracy(logits, labels), 4)}

    def calibration_batches(self) -> Iterator[MicroBatch]:
        """Yield the batches that the final statistics are measured on."""
        return self.batches(self.settings.epochs)

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the data."""
        return len(self.labels) // self.settings.batch_size

    def run(self) -> None:
        """Train to the end, saving after every epoch."""
        s, per_epoch = self.settings, self.steps_per_epoch
        done = self.progress.epoch * per_epoch
        with loop.progress_bar(self.name, s.epochs * per_epoch, done) as bar:
            for epoch in range(self.progress.epoch, s.epochs):
                self._train_epoch(epoch, bar)
                checkpoint.save(self.path, asdict(s), self.progress, **self._parts())
        self._calibrate()

    def _parts(self) -> dict[str, Any]:
        return {"model": self.model, **self.optimizers}

    def _train_epoch(self, epoch: int, bar: loop.ProgressBar) -> None:
        watch, seen, loss_sum, right = loop.Stopwatch(), 0, 0.0, 0
        self.begin_epoch(epoch)
        for step, batch in enumerate(self.batches(epoch), epoch * self.steps_per_epoch):
            self.set_rates(step)
            loss, hits = self._step(batch)
            seen, loss_sum, right = seen + len(batch[0]), loss_sum + loss, right + hits
            bar.advance(f"loss {loss_sum / seen:.3f}, training accuracy {right / seen:.3f}")
        self.progress.add(watch)
        self.progress.epoch = epoch + 1
        self._record(loss_sum / seen, right / seen, bar)

    def _record(self, loss: float, train_accuracy: float, bar: loop.ProgressBar) -> None:
        """Add a point to the learning curve, from a tenth of the test split until the end.

        The figures are shown, never acted upon: nothing is selected or stopped by them.
        """
        last = self.progress.epoch == self.settings.epochs
        rows = slice(None, None, 1 if last else 10)
        point = {
            "epoch": self.progress.epoch,
            "seconds": round(self.progress.train_s, 1),
            "cpu_seconds": round(self.progress.cpu_s, 1),
            "train_loss": round(loss, 4),
            "train_accuracy": round(train_accuracy, 4),
            **self.figures(self.test_logits(rows), self.test_labels[rows]),
        }
        self.progress.curve.append(point)
        bar.say("  ".join(f"{name} {value}" for name, value in point.items()))

    def _step(self, batch: MicroBatch) -> tuple[float, int]:
        loss, right = self.workers.gradients(self._micro_batches(batch))
        for optimizer in self.optimizers.values():
            optimizer.step()
        return loss, right

    def _micro_batches(self, batch: MicroBatch) -> list[MicroBatch]:
        size = self.settings.micro_batch
        return list(zip(batch[0].split(size), batch[1].split(size), strict=True))

    def _forward_backward(self, model: nn.Module, part: MicroBatch) -> tuple[float, int]:
        images, labels = self.prepared(part)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            logits, _ = model(images)
        loss = functional.cross_entropy(
            logits.float(), labels, label_smoothing=self.settings.label_smoothing, reduction="sum"
        )
        (loss / self.loss_divisor).backward()  # type: ignore[no-untyped-call]
        return loss.item(), int((logits.argmax(1) == labels).sum().item())

    @torch.no_grad()
    def _calibrate(self) -> None:
        """Measure the statistics of batch normalization anew, for the weights as they now are.

        On shuffled pictures with the changes of training, in float32: a micro-batch of one class,
        or of pictures learnt by heart, has statistics of its own, and costs a point of accuracy.
        """
        for norm in self.model.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.reset_running_stats()
                norm.momentum = None      # a plain average over all that follows
        self.model.train()
        count = self.settings.calibration_rows // self.settings.batch_size
        for batch in islice(self.calibration_batches(), count):
            for part in self._micro_batches(batch):
                self.model(self.prepared(part)[0])
        self.model.eval()


def spread(rows: Tensor, count: int) -> Tensor:
    """Take `count` rows evenly over the whole set, for a file may be sorted by class."""
    return rows[:: max(1, len(rows) // count)][:count]
