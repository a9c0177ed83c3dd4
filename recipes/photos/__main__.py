"""`python -m recipes.photos --data FOLDER --out model_repo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from recipes.common.data import load_cifar10
from recipes.photos.train import Settings, Training


def main() -> None:
    """Train, export, measure and package."""
    parser = argparse.ArgumentParser(prog="python -m recipes.photos", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("model_repo"))
    parser.add_argument("--checkpoints", type=Path, default=Path("build/checkpoints"))
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    arguments = parser.parse_args()
    training = Training(
        load_cifar10(arguments.data), Settings(epochs=arguments.epochs), arguments.checkpoints
    )
    training.run()


if __name__ == "__main__":
    main()
