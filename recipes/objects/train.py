"""Training of `objects`: Muon for filters, AdamW for the rest, small pictures first."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from recipes.common import checkpoint, loop
from recipes.common.data import Dataset, Pictures
from recipes.objects.crops import cut, random_crops
from recipes.objects.model import ObjectNet
from recipes.photos.muon import Muon
from recipes.photos.train import spread
from recipes.photos.workers import MicroBatch, Workers

# The usual figures of ImageNet, on the 0..1 scale.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
WHITENING_ROWS = 3000
CHANNELS_LAST = {"memory_format": torch.channels_last}


@dataclass(frozen=True)
class Settings:
    """What decides the outcome, and is stored in the checkpoint."""

    seed: int = 7
    epochs: int = 23
    # (epochs, side): the first epochs see small pictures, for speed; what is left sees 64 x 64.
    sizes: tuple[tuple[int, int], ...] = ((14, 40), (6, 48))
    batch_size: int = 500
    micro_batch: int = 125                # rows that share one batch normalization
    filter_lr: float = 0.08
    filter_momentum: float = 0.8
    other_lr: float = 4e-3                # biases, neck and head
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    area: tuple[float, float] = (0.45, 1.0)
    warm_up_steps: int = 100
    calibration_rows: int = 10_000
    calibration_area: tuple[float, float] = (0.8, 1.0)
    bfloat16: bool = False                # activations in half the bytes; weights stay float32

    def size(self, epoch: int) -> int:
        """Return the side of the pictures that `epoch` sees."""
        for epochs, side in self.sizes:
            if epoch < epochs:
                return side
            epoch -= epochs
        return 64


def pixels(images: Pictures) -> Tensor:
    """Turn (n, H, W, 3) bytes into a view (n, 3, H, W) of them."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def normalized(images: Tensor) -> Tensor:
    """Turn bytes (n, 3, H, W) into normalized float32."""
    factor = torch.tensor(STD).mul(255).reciprocal().view(3, 1, 1)
    return images.float() * factor - (torch.tensor(MEAN) / torch.tensor(STD)).view(3, 1, 1)


class Training:
    """One training of the net: its data, its optimizers and where it stands."""

    def __init__(self, data: Dataset, settings: Settings, checkpoints: Path) -> None:
        """Prepare a fresh training, then go on from the checkpoint if there is one."""
        self.settings, self.path = settings, checkpoints / "objects.pt"
        self.device = loop.default_device()
        self.images, self.labels = pixels(data.train.images), torch.from_numpy(data.train.labels)
        self.test_images = pixels(data.test.images)
        self.test_labels = torch.from_numpy(data.test.labels)
        torch.manual_seed(settings.seed)
        self.model = ObjectNet(len(data.classes))
        self.model.whiten(normalized(spread(self.images, WHITENING_ROWS)))
        self.model.to(self.device, **CHANNELS_LAST)
        on_cpu = self.device.type == "cpu"
        count = len(os.sched_getaffinity(0)) if on_cpu else 1
        self.workers = Workers(self.model, count, self._forward_backward)
        self.size = 64
        self.adam, self.muon = self._optimizers()
        self.progress = checkpoint.resume(
            self.path, asdict(settings), model=self.model, adam=self.adam, muon=self.muon
        )

    def _optimizers(self) -> tuple[torch.optim.AdamW, Muon]:
        s = self.settings
        learning = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in learning if p.ndim == 1], "weight_decay": 0.0},
            {"params": [p for p in learning if p.ndim == 2], "weight_decay": s.weight_decay},
        ]
        adam = torch.optim.AdamW(groups, lr=s.other_lr, betas=(0.9, 0.98))
        filters = [p for p in learning if p.ndim == 4]
        precision = torch.bfloat16 if s.bfloat16 else torch.float32
        muon = Muon(filters, s.filter_lr, s.filter_momentum, precision=precision)
        return adam, muon

    @property
    def steps_per_epoch(self) -> int:
        """Steps in one pass over the data."""
        return len(self.labels) // self.settings.batch_size

    def run(self) -> None:
        """Train to the end, saving after every epoch."""
        s, per_epoch = self.settings, self.steps_per_epoch
        done = self.progress.epoch * per_epoch
        with loop.progress_bar("objects", s.epochs * per_epoch, done) as bar:
            for epoch in range(self.progress.epoch, s.epochs):
                self._train_epoch(epoch, bar)
                parts = {"model": self.model, "adam": self.adam, "muon": self.muon}
                checkpoint.save(self.path, asdict(s), self.progress, **parts)
        self._calibrate()

    def _train_epoch(self, epoch: int, bar: loop.ProgressBar) -> None:
        watch, seen, loss_sum, right = loop.Stopwatch(), 0, 0.0, 0
        self.size = self.settings.size(epoch)
        for step, (rows, crops) in enumerate(self._batches(epoch, self.settings.area)):
            self._set_rates(epoch * self.steps_per_epoch + step)
            loss, hits = self._step(rows, crops)
            seen, loss_sum, right = seen + len(rows), loss_sum + loss, right + hits
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
        logits, labels = self._predict(self.test_images[rows]), self.test_labels[rows]
        point = {
            "epoch": self.progress.epoch,
            "size": self.size,
            "seconds": round(self.progress.train_s, 1),
            "cpu_seconds": round(self.progress.cpu_s, 1),
            "train_loss": round(loss, 4),
            "train_accuracy": round(train_accuracy, 4),
            "test_accuracy": round(loop.accuracy(logits, labels), 4),
            "test_accuracy_top5": round(top_accuracy(logits, labels, 5), 4),
        }
        self.progress.curve.append(point)
        bar.say("  ".join(f"{name} {value}" for name, value in point.items()))

    @torch.no_grad()
    def _predict(self, images: Tensor) -> Tensor:
        self.model.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            parts = [
                self.model(normalized(part).to(self.device, **CHANNELS_LAST))[0].float().cpu()
                for part in images.split(250)
            ]
        return torch.cat(parts)

    def _batches(self, epoch: int, area: tuple[float, float]) -> Iterator[MicroBatch]:
        """Yield row numbers with the crops to take of them; workers do the cutting."""
        s, generator = self.settings, loop.epoch_generator(self.settings.seed, epoch)
        for rows in loop.batches(len(self.labels), s.batch_size, generator):
            yield rows, random_crops(len(rows), area, generator)

    def _step(self, rows: Tensor, crops: Tensor) -> tuple[float, int]:
        size = self.settings.micro_batch
        parts = list(zip(rows.split(size), crops.split(size), strict=True))
        loss, right = self.workers.gradients(parts)
        self.adam.step()
        self.muon.step()
        return loss, right

    def _cut(self, part: MicroBatch) -> Tensor:
        rows, crops = part
        images = cut(normalized(self.images[rows]), crops, self.size)
        return images.to(self.device, **CHANNELS_LAST)

    def _forward_backward(self, model: nn.Module, part: MicroBatch) -> tuple[float, int]:
        images, labels = self._cut(part), self.labels[part[0]].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            logits, _ = model(images)
        loss = functional.cross_entropy(
            logits.float(), labels, label_smoothing=self.settings.label_smoothing, reduction="sum"
        )
        (loss / self.settings.batch_size).backward()
        return loss.item(), int((logits.argmax(1) == labels).sum().item())

    def _set_rates(self, step: int) -> None:
        """All rates rise for a few steps, then fall in a straight line to zero."""
        s = self.settings
        factor = min(1.0, (step + 1) / s.warm_up_steps) * (
            1 - step / (s.epochs * self.steps_per_epoch)
        )
        for group in self.adam.param_groups:
            group["lr"] = s.other_lr * factor
        self.muon.param_groups[0]["lr"] = s.filter_lr * factor

    @torch.no_grad()
    def _calibrate(self) -> None:
        """Measure the statistics of batch normalization anew, for the weights as they now are.

        On nearly whole pictures and in float32, which is how the net will be asked.
        """
        s, self.size = self.settings, 64
        norms = [m for m in self.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None          # a plain average over all that follows
        self.model.train()
        batches = self._batches(s.epochs, s.calibration_area)
        for rows, crops in islice(batches, s.calibration_rows // s.batch_size):
            for part in zip(rows.split(s.micro_batch), crops.split(s.micro_batch), strict=True):
                self.model(self._cut(part))
        self.model.eval()


def top_accuracy(logits: Tensor, labels: Tensor, count: int) -> float:
    """Return the share of rows whose right class is among the `count` largest logits."""
    count = min(count, logits.shape[1])
    return (logits.topk(count, 1).indices == labels[:, None]).any(1).float().mean().item()
