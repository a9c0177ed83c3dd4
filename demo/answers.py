"""The first half of the demo: one picture for each model, and what the server says it is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from PIL import Image
from rich.columns import Columns
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from demo.http import ask

SHADES = " .:-=+*#%@"


def show_answers(console: Console, url: str, repository: Path) -> list[str]:
    """Ask about a digit and a photo, print both; return what was wrong."""
    problems = []
    for model, picture in (
        ("digits", _sample(repository, "digits", "7")),
        ("photos", _any(repository)),
    ):
        truth = picture.stem.rpartition("_")[0]
        reply = ask(f"{url}/predict?model={model}&top_k=3", picture.read_bytes(), "image/png")
        result = reply["results"][0] if "results" in reply else reply
        console.print(f"[bold]POST /predict?model={model}[/bold]  {picture.name}")
        if "predictions" not in result:
            problems.append(f"{model}: {result}")
            continue
        console.print(Columns([Panel(_drawn(picture)), _table(result["predictions"], reply)]))
        best = result["predictions"][0]["label"]
        if best != truth:
            problems.append(f"{model}: {picture.name} was taken for {best!r}")
    return problems


def _sample(repository: Path, model: str, label: str) -> Path:
    """Return a shipped sample picture of a label; samples are called LABEL_NUMBER.png."""
    return min((repository / model).glob(f"*/samples/{label}_*.png"))


def _any(repository: Path) -> Path:
    return min((repository / "photos").glob("*/samples/*_*.png"))


def _table(predictions: list[dict[str, Any]], reply: dict[str, Any]) -> Table:
    table = Table(title=f"{reply['model']} version {reply['version']}", title_style="dim")
    table.add_column("label")
    table.add_column("score", justify="right")
    for prediction in predictions:
        table.add_row(prediction["label"], f"{prediction['score']:.2%}")
    return table


def _drawn(picture: Path, width: int = 28) -> Text:
    """Return a small picture as text; two characters are about as wide as one line is high."""
    with Image.open(io.BytesIO(picture.read_bytes())) as image:
        height = round(image.height * width / image.width / 2)
        grey = image.convert("L").resize((width, height))
    levels = grey.tobytes()
    rows = (levels[start : start + width] for start in range(0, len(levels), width))
    return Text("\n".join("".join(SHADES[v * len(SHADES) // 256] for v in row) for row in rows))
