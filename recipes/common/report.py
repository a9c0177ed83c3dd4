"""What a training leaves behind beside the model: a result file and a picture of its curve."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from recipes.common.checkpoint import Progress
from recipes.common.data import Dataset

CURVE_SIZE = (640, 360)
MARGIN = 44
INK, GRID, PAPER = "#1f4e79", "#d8dde3", "#ffffff"


def machine() -> str:
    """Return the processor and its cores, in words."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{model}, {os.cpu_count()} cores"


@dataclass(frozen=True)
class Trained:
    """A training of a classifier that has come to its end."""

    model: str
    version: str
    data: Dataset
    settings: Any                         # a dataclass
    progress: Progress
    parameters: int                       # how many numbers were learnt

    def facts(self, precision: str) -> dict[str, str]:
        """Return rows of the card's table: size, and what the training took."""
        wall, cpu = (f"{s / 60:.0f}" for s in (self.progress.train_s, self.progress.cpu_s))
        return {
            "parameters": f"{self.parameters:,}",
            "training": f"{wall} min ({cpu} CPU-min) in {precision} on {machine()}",
        }


def write_training(
    folder: Path, trained: Trained, title: str, figures: Mapping[str, Any], **further: Any
) -> None:
    """Write `MODEL-VERSION.json` and a picture of the learning curve.

    `figures` are those of the exported file. Where the curve tells the same, its last point takes
    them: it was measured before the last calibration. `further` facts are for the file alone.
    """
    progress, name = trained.progress, f"{trained.model}-{trained.version}"
    last = progress.curve[-1]
    last |= {figure: value for figure, value in figures.items() if figure in last}
    results = {
        "model": trained.model,
        "version": trained.version,
        "data": f"{trained.data.train.source}; {trained.data.test.source}",
        **figures,
        "train_s": round(progress.train_s, 1),
        "train_cpu_s": round(progress.cpu_s, 1),
        "machine": machine(),
        "parameters": trained.parameters,
        **further,
        "settings": asdict(trained.settings),
        "curve": progress.curve,
    }
    write_results(folder / f"{name}.json", results)
    points = [(point["epoch"], point["test_accuracy"]) for point in progress.curve]
    draw_curve(folder / f"{name}.png", title, points)


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write a result file: figures first, the learning curve one point a line."""
    plain = {name: value for name, value in results.items() if name != "curve"}
    points = ",\n".join("    " + json.dumps(point) for point in results["curve"])
    body = json.dumps(plain, indent=2).removesuffix("\n}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'{body},\n  "curve": [\n{points}\n  ]\n}}\n')


def draw_curve(
    path: Path, title: str, points: Sequence[tuple[float, float]], unit: str = "epoch"
) -> None:
    """Draw a share that grows over epochs (or another unit) as a small PNG."""
    image = Image.new("RGB", CURVE_SIZE, PAPER)
    draw = ImageDraw.Draw(image)
    low, high = _range([value for _, value in points])
    last = max(epoch for epoch, _ in points)
    width, height = CURVE_SIZE

    def place(epoch: float, value: float) -> tuple[float, float]:
        across, up = epoch / last, (value - low) / (high - low)
        return MARGIN + across * (width - 2 * MARGIN), height - MARGIN - up * (height - 2 * MARGIN)

    for k in range(6):
        value = low + (high - low) * k / 5
        y = place(0, value)[1]
        draw.line([(MARGIN, y), (width - MARGIN, y)], fill=GRID)
        draw.text((4, y - 5), f"{100 * value:.1f}", fill="#555555")
    line = [place(epoch, value) for epoch, value in points if value >= low]
    draw.line(line, fill=INK, width=2)
    for x, y in line:
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=INK)
    draw.text((MARGIN, 12), title, fill="#222222")
    draw.text((width - MARGIN - 60, height - 24), f"{unit} {last:g}", fill="#555555")
    image.quantize(16).save(path, optimize=True)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Cut off the first steep rise: what matters is where the curve ends."""
    high = max(values)
    low = max(min(values), high - 4 * (high - sorted(values)[len(values) // 2]) - 0.01)
    return low, max(high, low + 1e-3)
