"""What a training leaves behind beside the model: a result file and a picture of its curve."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

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
