"""The command line that every recipe has."""

from __future__ import annotations

import argparse
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"


def parser(recipe: str, description: str | None, data: str) -> argparse.ArgumentParser:
    """Return a parser of what all recipes take; `data` says what the folder of data holds."""
    made = argparse.ArgumentParser(prog=f"python -m recipes.{recipe}", description=description)
    made.add_argument("--data", type=Path, required=True, help=data)
    made.add_argument("--out", type=Path, default=Path("model_repo"), help="model repository")
    made.add_argument(
        "--checkpoints", type=Path, default=Path("build/checkpoints"), help="where to go on from"
    )
    made.add_argument("--results", type=Path, default=RESULTS, help="folder of result files")
    return made


def add_epochs(made: argparse.ArgumentParser, epochs: int) -> None:
    """Add what recipes of large nets take besides."""
    made.add_argument("--epochs", type=int, default=epochs, help="passes over the data")
    made.add_argument(
        "--float32", action="store_true", help="do not compute in bfloat16 where the machine can"
    )
