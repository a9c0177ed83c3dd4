"""Pictures that look alike, and a classifier learned from a handful of them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.http import ask

BASE, COLLECTION, LEARNED = "photos", "demo", "vehicles-or-animals"
VEHICLES = ("airplane", "automobile", "ship", "truck")
HELD_BACK = "_1"  # ends the name of a picture that is asked about, not learned from


def show_similarity(console: Console, url: str, repository: Path) -> list[str]:
    """Index the sample pictures of `photos` and look for the second of each pair."""
    pictures = sample_pictures(repository)
    ask_json(f"{url}/collections", {"name": COLLECTION, "model": BASE})
    items = [{"id": path.stem, "image": encoded(path)} for path in pictures]
    reply = ask_json(f"{url}/collections/{COLLECTION}/items", {"items": items})
    if reply.get("added") != len(pictures):
        return [f"collection {COLLECTION}: {reply}"]
    console.print("[bold]POST /similar[/bold]  the nearest of the other pictures")
    table = Table(title=f"{len(pictures)} pictures, {BASE}", title_style="dim")
    for column in ("picture", "looks most like", "score"):
        table.add_column(column)
    problems = []
    for path in held_back(pictures):
        answer = ask_json(f"{url}/similar", {"collection": COLLECTION, "id": path.stem, "k": 1})
        hits = answer.get("results", [{}])[0].get("hits")
        if not hits:
            problems.append(f"/similar, {path.stem}: {answer}")
            continue
        table.add_row(path.stem, hits[0]["id"], f"{hits[0]['score']:.3f}")
        if kind_of(hits[0]["id"]) != kind_of(path.stem):
            problems.append(f"/similar: {path.stem} looks like {hits[0]['id']}")
    console.print(table)
    return problems


def show_learning(console: Console, url: str, repository: Path) -> list[str]:
    """Learn vehicles and animals from the other pictures, and ask about those held back."""
    pictures = sample_pictures(repository)
    asked = held_back(pictures)
    items = [
        {"image": encoded(path), "label": kind_of(path.stem), "name": path.name}
        for path in pictures
        if path not in asked
    ]
    console.print(f"[bold]POST /models/{BASE}/heads[/bold]  {len(items)} pictures, two classes")
    taught = ask_json(f"{url}/models/{BASE}/heads?name={LEARNED}", {"items": items})
    if not taught.get("loaded"):
        return [f"{LEARNED}: {taught}"]
    reply = ask_json(
        f"{url}/predict",
        {"model": LEARNED, "inputs": [{"image": encoded(path)} for path in asked]},
    )
    table = Table(title=f"{LEARNED} version {taught['version']}", title_style="dim")
    for column in ("picture", "label", "score"):
        table.add_column(column)
    problems = []
    for path, result in zip(asked, reply["results"], strict=True):
        best = result["predictions"][0]
        table.add_row(path.stem, best["label"], f"{best['score']:.2%}")
        if best["label"] != kind_of(path.stem):
            problems.append(f"{LEARNED}: {path.stem} was taken for {best['label']!r}")
    console.print(table)
    return problems


def sample_pictures(repository: Path) -> list[Path]:
    """Return the shipped pictures, called CLASS_NUMBER.png."""
    return sorted((repository / BASE).glob("*/samples/*_*.png"))


def held_back(pictures: list[Path]) -> list[Path]:
    """Return the second picture of each class that has two."""
    return [path for path in pictures if path.stem.endswith(HELD_BACK)]


def kind_of(name: str) -> str:
    """Return what a picture shows, roughly."""
    return "vehicle" if name.rpartition("_")[0] in VEHICLES else "animal"


def encoded(path: Path) -> dict[str, str]:
    """Return a picture as JSON carries it."""
    return {"b64": base64.b64encode(path.read_bytes()).decode()}


def ask_json(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """POST JSON and return the answer, be it an error."""
    return ask(url, json.dumps(body).encode(), "application/json")
