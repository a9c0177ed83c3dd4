"""German sentences in, English ones out, by the shipped translation model."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from demo.http import ask

MODEL = "translate-de-en"


def show_translations(console: Console, url: str, repository: Path) -> list[str]:
    """Translate the model's own sample sentences in one request; return what was wrong."""
    samples = golden_sentences(repository / MODEL)
    body = json.dumps({"model": MODEL, "text": [german for german, _ in samples]}).encode()
    reply = ask(f"{url}/translate", body, "application/json")
    console.print(f"[bold]POST /translate[/bold]  model={MODEL}")
    if "translations" not in reply:
        return [f"{MODEL}: {reply}"]
    table = Table(title=f"{reply['model']} version {reply['version']}", title_style="dim")
    table.add_column("German")
    table.add_column("English")
    problems = []
    for (german, expected), answer in zip(samples, reply["translations"], strict=True):
        table.add_row(german, answer.get("text", str(answer)))
        if answer.get("text") != expected:
            problems.append(f"{MODEL}: {german!r} became {answer}, expected {expected!r}")
    console.print(table)
    return problems


def golden_sentences(model: Path) -> list[tuple[str, str]]:
    """Return text and translation of the newest version's samples."""
    newest = max(
        (path for path in model.iterdir() if path.name.isdigit()), key=lambda p: int(p.name)
    )
    samples = [json.loads(path.read_text()) for path in sorted(newest.glob("samples/*.json"))]
    return [(sample["text"], sample["translation"]) for sample in samples]
