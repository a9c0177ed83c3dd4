"""`python -m recipes.digits --data FOLDER --out model_repo`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn

from recipes.common.data import Dataset, load_mnist
from recipes.common.loop import accuracy, predict
from recipes.common.publish import Candidate, Published, publish
from recipes.common.report import draw_curve, machine, write_results
from recipes.digits.documents import LICENSE, card
from recipes.digits.models import parameter_count
from recipes.digits.strokes import HANDS, draw_set
from recipes.digits.train import VERSIONS, Training, Version, ink, normalized

RESULTS = Path(__file__).parents[1] / "results"
DRAWN, DRAWN_SEED = 2000, 11              # digits per hand, in the check with drawn digits


def main() -> None:
    """Train, export, measure and package."""
    parser = argparse.ArgumentParser(prog="python -m recipes.digits", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of MNIST, idx or npz")
    parser.add_argument("--out", type=Path, default=Path("model_repo"), help="model repository")
    parser.add_argument("--checkpoints", type=Path, default=Path("build/checkpoints"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of result files")
    parser.add_argument("--version", choices=sorted(VERSIONS), action="append", help="default all")
    arguments = parser.parse_args()
    data = load_mnist(arguments.data)
    for name in arguments.version or sorted(VERSIONS):
        training = Training(data, VERSIONS[name], arguments.checkpoints)
        training.run()
        finish(training, data, VERSIONS[name], arguments.out, arguments.results)


def finish(training: Training, data: Dataset, version: Version, out: Path, results: Path) -> None:
    """Write the version folder and the result file."""
    net = training.average.cpu()
    drawn = drawn_accuracy(net)
    facts = {
        **{f"digits drawn by strokes, {hand}": f"{share:.1%}" for hand, share in drawn.items()},
        "parameters": f"{parameter_count(net):,}",
        "training": f"{training.progress.train_s:.0f} s on {machine()}",
    }

    def documents(published: Published) -> dict[str, str]:
        return {"CARD.md": card(version.name, published, facts), "LICENSE": LICENSE}

    candidate = Candidate("digits", version.name, net, version.outputs, data.classes)
    published = publish(candidate, data.test, training.test_images, out, documents)
    curve = training.progress.curve
    name = f"digits-{version.name}"
    write_results(
        results / f"{name}.json",
        {
            "model": "digits",
            "version": version.name,
            "data": f"{data.train.source}; {data.test.source}",
            "test_accuracy": published.accuracy,
            "drawn_accuracy": drawn,
            "train_s": round(training.progress.train_s, 1),
            "train_cpu_s": round(training.progress.cpu_s, 1),
            "machine": machine(),
            "parameters": parameter_count(net),
            "settings": asdict(version.settings),
            "curve": curve,
        },
    )
    draw_curve(
        results / f"{name}.png",
        f"{name}: accuracy on the test split, %",
        [(point["epoch"], point["test_accuracy"]) for point in curve],
    )
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
