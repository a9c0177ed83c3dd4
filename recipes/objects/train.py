"""Training of `objects`: Muon for filters, AdamW for the rest, small pictures first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recipes.common import loop, training
from recipes.common.data import Dataset, Pictures
from recipes.common.muon import Muon
from recipes.common.workers import MicroBatch
from recipes.objects.crops import cut, random_crops
from recipes.objects.data import SIZE
from recipes.objects.model import ObjectNet

# The usual figures of ImageNet, on the 0..1 scale.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
WHITENING_ROWS = 3000


@dataclass(frozen=True)
class Settings(training.Settings):
    """What decides the outcome, and is stored in the checkpoint."""

    epochs: int = 23
    batch_size: int = 500
    micro_batch: int = 125
    label_smoothing: float = 0.1
    calibration_rows: int = 10_000
    # (epochs, side): the first epochs see small pictures, for speed; what is left sees 64 x 64.
    sizes: tuple[tuple[int, int], ...] = ((14, 40), (6, 48))
    filter_lr: float = 0.08
    filter_momentum: float = 0.8
    other_lr: float = 4e-3                # biases, neck and head
    weight_decay: float = 0.05
    area: tuple[float, float] = (0.45, 1.0)
    calibration_area: tuple[float, float] = (0.8, 1.0)
    warm_up_steps: int = 100

    def size(self, epoch: int) -> int:
        """Return the side of the pictures that `epoch` sees."""
        for epochs, side in self.sizes:
            if epoch < epochs:
                return side
            epoch -= epochs
        return SIZE


def pixels(images: Pictures) -> Tensor:
    """Turn (n, H, W, 3) bytes into a view (n, 3, H, W) of them."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def normalized(images: Tensor) -> Tensor:
    """Turn bytes (n, 3, H, W) into normalized float32."""
    factor = torch.tensor(STD).mul(255).reciprocal().view(3, 1, 1)
    return images.float() * factor - (torch.tensor(MEAN) / torch.tensor(STD)).view(3, 1, 1)


class Training(training.EpochTraining[Settings]):
    """One training of `objects`; a batch is row numbers and the crops to take of them."""

    name = "objects"
    model: ObjectNet

    def __init__(self, data: Dataset, settings: Settings, checkpoints: Path) -> None:
        """Prepare a fresh training, then go on from the checkpoint if there is one."""
        self.images, self.test_images = pixels(data.train.images), pixels(data.test.images)
        self.size, self.loss_divisor = SIZE, settings.batch_size
        torch.manual_seed(settings.seed)
        model = ObjectNet(len(data.classes))
        model.whiten(normalized(training.spread(self.images, WHITENING_ROWS)))
        labels, test_labels = map(torch.from_numpy, (data.train.labels, data.test.labels))
        super().__init__(settings, model, labels, test_labels, checkpoints)

    def make_optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return AdamW for vectors and matrices, Muon for filters."""
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
        return {"adam": adam, "muon": muon}

    def set_rates(self, step: int) -> None:
        """All rates rise for a few steps, then fall in a straight line to zero."""
        s = self.settings
        factor = min(1.0, (step + 1) / s.warm_up_steps) * (
            1 - step / (s.epochs * self.steps_per_epoch)
        )
        for group in self.optimizers["adam"].param_groups:
            group["lr"] = s.other_lr * factor
        self.optimizers["muon"].param_groups[0]["lr"] = s.filter_lr * factor

    def begin_epoch(self, epoch: int) -> None:
        """Grow the pictures."""
        self.size = self.settings.size(epoch)

    def batches(self, epoch: int) -> Iterator[MicroBatch]:
        """Yield row numbers with the crops to take of them; workers do the cutting."""
        return self._crops(epoch, self.settings.area)

    def calibration_batches(self) -> Iterator[MicroBatch]:
        """Yield nearly whole pictures in full size, which is how the net will be asked."""
        self.size = SIZE
        return self._crops(self.settings.epochs, self.settings.calibration_area)

    def _crops(self, epoch: int, area: tuple[float, float]) -> Iterator[MicroBatch]:
        s, generator = self.settings, loop.epoch_generator(self.settings.seed, epoch)
        for rows in loop.batches(len(self.labels), s.batch_size, generator):
            yield rows, random_crops(len(rows), area, generator)

    def prepared(self, part: MicroBatch) -> tuple[Tensor, Tensor]:
        """Cut the crops of some rows."""
        rows, crops = part
        images = cut(normalized(self.images[rows]), crops, self.size)
        return self._placed(images), self.labels[rows].to(self.device)

    def _placed(self, images: Tensor) -> Tensor:
        return images.to(self.device, **training.CHANNELS_LAST)

    @torch.no_grad()
    def test_logits(self, rows: slice) -> Tensor:
        """Return the logits of whole pictures, computed as in training."""
        self.model.eval()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bfloat16):
            parts = [
                self.model(self._placed(normalized(part)))[0].float().cpu()
                for part in self.test_images[rows].split(250)
            ]
        return torch.cat(parts)

    def figures(self, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Return the accuracies, and the size of this epoch's pictures."""
        top5 = round(top_accuracy(logits, labels, 5), 4)
        return {
            "size": self.size, **super().figures(logits, labels), "test_accuracy_top5": top5
        }


def top_accuracy(logits: Tensor, labels: Tensor, count: int) -> float:
    """Return the share of rows whose right class is among the `count` largest logits."""
    count = min(count, logits.shape[1])
    return (logits.topk(count, 1).indices == labels[:, None]).any(1).float().mean().item()
