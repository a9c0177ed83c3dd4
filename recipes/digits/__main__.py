"""`python -m recipes.digits --data FOLDER --out model_repo`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from recipes.common import command
from recipes.common.data import Dataset, load_mnist
from recipes.common.loop import accuracy, predict
from recipes.common.publish import Candidate, Published, publish
from recipes.common.report import Trained, machine, write_training
from recipes.digits.documents import LICENSE, card
from recipes.digits.models import parameter_count
from recipes.digits.strokes import HANDS, draw_set
from recipes.digits.train import VERSIONS, Training, Version, ink, normalized

DRAWN, DRAWN_SEED = 2000, 11              # digits per hand, in the check with drawn digits


def main() -> None:
    """Train, export, measure and package."""
    parser = command.parser("digits", __doc__, "folder of MNIST, idx or npz")
    parser.add_argument("--version", choices=sorted(VERSIONS), action="append", help="default all")
    given = parser.parse_args()
    data = load_mnist(given.data)
    for name in given.version or sorted(VERSIONS):
        training = Training(data, VERSIONS[name], given.checkpoints)
        training.run()
        finish(training, data, VERSIONS[name], given.out, given.results)


def finish(training: Training, data: Dataset, version: Version, out: Path, results: Path) -> None:
    """Write the version folder and the result file."""
    net = training.average.cpu()
    drawn = drawn_accuracy(net)
    progress = training.progress
    trained = Trained(
        "digits", version.name, data, version.settings, progress, parameter_count(net)
    )
    facts = {
        **{f"digits drawn by strokes, {hand}": f"{share:.1%}" for hand, share in drawn.items()},
        "parameters": f"{trained.parameters:,}",
        "training": f"{progress.train_s:.0f} s on {machine()}",
    }

    def documents(published: Published) -> dict[str, str]:
        return {"CARD.md": card(version.name, published, facts), "LICENSE": LICENSE}

    candidate = Candidate("digits", version.name, net, version.outputs, data.classes)
    published = publish(candidate, data.test, training.test_images, out, documents)
    title = f"digits-{version.name}: accuracy on the test split, %"
    figures = {"test_accuracy": published.accuracy, "drawn_accuracy": drawn}
    write_training(results, trained, title, figures)
    print(f"digits version {version.name}: {published.accuracy:.2%} on the test split")


def drawn_accuracy(net: nn.Module) -> dict[str, float]:
    """Return the accuracy on drawn digits, per hand."""
    shares = {}
    for hand in HANDS:
        images, labels = draw_set(HANDS[hand], DRAWN, DRAWN_SEED)
        logits = predict(net, normalized(ink(images)))
        shares[hand] = round(accuracy(logits, torch.from_numpy(labels)), 4)
    return shares


if __name__ == "__main__":
    main()
