"""`python -m recipes.photos --data FOLDER --out model_repo`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from recipes.common.data import Dataset, load_cifar10
from recipes.common.publish import Candidate, Published, publish
from recipes.common.report import draw_curve, machine, write_results
from recipes.photos.documents import LICENSE, card
from recipes.photos.model import Mirrored
from recipes.photos.train import Settings, Training

RESULTS = Path(__file__).parents[1] / "results"
NAME, VERSION, OUTPUTS = "photos", "1", ("logits", "embedding")


def main() -> None:
    """Train, export, measure and package."""
    parser = argparse.ArgumentParser(prog="python -m recipes.photos", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of CIFAR-10, binary version or JPEG npz"
    )
    parser.add_argument("--out", type=Path, default=Path("model_repo"), help="model repository")
    parser.add_argument("--checkpoints", type=Path, default=Path("build/checkpoints"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of result files")
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    parser.add_argument(
        "--mirror", action="store_true", help="export a graph that averages over the mirror image"
    )
    arguments = parser.parse_args()
    data = load_cifar10(arguments.data)
    training = Training(data, Settings(epochs=arguments.epochs), arguments.checkpoints)
    training.run()
    finish(training, data, arguments.out, arguments.results, arguments.mirror)


def finish(
    training: Training, data: Dataset, out: Path, results: Path, mirror: bool = False
) -> None:
    """Write the version folder and the result file."""
    parameters = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
    facts = {
        "parameters": f"{parameters:,}",
        "training": f"{training.progress.train_s / 60:.0f} min on {machine()}",
    }

    def documents(published: Published) -> dict[str, str]:
        return {"CARD.md": card(published, facts, VERSION, mirror), "LICENSE": LICENSE}

    deployed = training.model.deployed()
    net = Mirrored(deployed) if mirror else deployed
    candidate = Candidate(NAME, VERSION, net, OUTPUTS, data.classes)
    published = publish(candidate, data.test, training.test_images, out, documents)
    curve = training.progress.curve
    curve[-1]["test_accuracy"] = published.accuracy    # of the file, after the last calibration
    write_results(
        results / f"{NAME}-{VERSION}.json",
        {
            "model": NAME,
            "version": VERSION,
            "data": f"{data.train.source}; {data.test.source}",
            "test_accuracy": published.accuracy,
            "train_s": round(training.progress.train_s, 1),
            "machine": machine(),
            "parameters": parameters,
            "mirrored": mirror,
            "settings": asdict(training.settings),
            "curve": curve,
        },
    )
    draw_curve(
        results / f"{NAME}-{VERSION}.png",
        f"{NAME}: accuracy on the test split (a tenth of it until the last epoch), %",
        [(point["epoch"], point["test_accuracy"]) for point in curve],
    )
    print(f"{NAME} version {VERSION}: {published.accuracy:.2%} on the test split")


if __name__ == "__main__":
    main()
