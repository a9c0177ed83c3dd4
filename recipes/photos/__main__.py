"""`python -m recipes.photos --data FOLDER --out model_repo`."""

from __future__ import annotations

import argparse
from pathlib import Path

from recipes.common import command
from recipes.common.data import Dataset, load_cifar10
from recipes.common.loop import computes_in_bfloat16
from recipes.common.memory import keep_freed_memory
from recipes.common.publish import Candidate, Published, publish
from recipes.common.report import Trained, write_training
from recipes.photos.documents import LICENSE, card
from recipes.photos.model import Mirrored
from recipes.photos.train import Settings, Training

NAME, VERSION, OUTPUTS = "photos", "1", ("logits", "embedding")


def main() -> None:
    """Train, export, measure and package."""
    parser = command.parser("photos", __doc__, "folder of CIFAR-10, binary version or JPEG npz")
    command.add_epochs(parser, Settings.epochs)
    parser.add_argument(
        "--mirror",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="export a graph that also looks at the mirror image: better, at twice the work",
    )
    given = parser.parse_args()
    keep_freed_memory()
    data = load_cifar10(given.data)
    settings = Settings(
        epochs=given.epochs,
        small_epochs=given.epochs * Settings.small_epochs // Settings.epochs,
        bfloat16=computes_in_bfloat16() and not given.float32,
    )
    training = Training(data, settings, given.checkpoints)
    training.run()
    finish(training, data, given.out, given.results, given.mirror)


def finish(
    training: Training, data: Dataset, out: Path, results: Path, mirror: bool = True
) -> None:
    """Write the version folder and the result file."""
    parameters = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
    trained = Trained(NAME, VERSION, data, training.settings, training.progress, parameters)
    facts = trained.facts("bfloat16" if training.settings.bfloat16 else "float32")

    def documents(published: Published) -> dict[str, str]:
        return {"CARD.md": card(published, facts, VERSION, mirror), "LICENSE": LICENSE}

    deployed = training.model.deployed()
    net = Mirrored(deployed) if mirror else deployed
    candidate = Candidate(NAME, VERSION, net, OUTPUTS, data.classes, half=True)
    published = publish(candidate, data.test, training.test_images, out, documents)
    title = f"{NAME}: accuracy on the test split (a tenth of it until the last epoch), %"
    figures = {"test_accuracy": published.accuracy}
    write_training(results, trained, title, figures, mirrored=mirror)
    print(f"{NAME} version {VERSION}: {published.accuracy:.2%} on the test split")


if __name__ == "__main__":
    main()
