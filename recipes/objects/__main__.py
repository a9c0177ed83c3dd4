"""`python -m recipes.objects --data FOLDER --out model_repo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from recipes.common import command
from recipes.common.data import Dataset
from recipes.common.loop import computes_in_bfloat16
from recipes.common.memory import keep_freed_memory
from recipes.common.report import Trained, write_training
from recipes.objects.data import load_tiny_imagenet
from recipes.objects.publish import NAME, VERSION, publish
from recipes.objects.train import Settings, Training

PICTURES = Path("model_repo/photos/1/samples")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = command.parser(
        "objects", __doc__, "tiny_imagenet200.npz or the folder that holds it"
    )
    command.add_epochs(parser, Settings.epochs)
    parser.add_argument("--cache", type=Path, default=Path("build/objects"), help="decoded data")
    parser.add_argument(
        "--pictures", type=Path, default=PICTURES, help="PNG files that become golden samples"
    )
    return parser.parse_args()


def settings_for(epochs: int, bfloat16: bool) -> Settings:
    """Return the settings; another number of epochs shares them out over sizes alike."""
    sizes = tuple((count * epochs // Settings.epochs, side) for count, side in Settings.sizes)
    return Settings(epochs=epochs, sizes=sizes, bfloat16=bfloat16)


def main() -> None:
    """Train, export, measure and package."""
    given = arguments()
    keep_freed_memory()
    data = load_tiny_imagenet(given.data, given.cache)
    bfloat16 = computes_in_bfloat16() and not given.float32
    training = Training(data, settings_for(given.epochs, bfloat16), given.checkpoints)
    training.run()
    finish(training, data, given.pictures, given.out, given.results)


def finish(training: Training, data: Dataset, pictures: Path, out: Path, results: Path) -> None:
    """Write the version folder, the result file and the picture of the curve."""
    parameters = sum(p.numel() for p in training.model.parameters())
    trained = Trained(NAME, VERSION, data, training.settings, training.progress, parameters)
    facts = trained.facts("bfloat16" if training.settings.bfloat16 else "float32")
    found = publish(training.model.deployed(), data, pictures, out, facts)
    figures = {"test_accuracy": found.top1, "test_accuracy_top5": found.top5}
    title = f"{NAME}: top-1 on the validation split (a tenth of it until the last epoch), %"
    write_training(results, trained, title, figures)
    print(f"{NAME} version {VERSION}: top-1 {found.top1:.2%}, top-5 {found.top5:.2%}")


if __name__ == "__main__":
    main()
