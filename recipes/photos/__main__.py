"""`python -m recipes.photos --data FOLDER --out model_repo`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from recipes.common.data import Dataset, load_cifar10
from recipes.common.loop import computes_in_bfloat16
from recipes.common.memory import keep_freed_memory
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
        "--mirror",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="export a graph that also looks at the mirror image: better, at twice the work",
    )
    parser.add_argument(
        "--float32", action="store_true", help="do not compute in bfloat16 where the machine can"
    )
    arguments = parser.parse_args()
    keep_freed_memory()
    data = load_cifar10(arguments.data)
    settings = Settings(
        epochs=arguments.epochs,
        small_epochs=arguments.epochs * Settings.small_epochs // Settings.epochs,
        bfloat16=computes_in_bfloat16() and not arguments.float32,
    )
    training = Training(data, settings, arguments.checkpoints)
    training.run()
    finish(training, data, arguments.out, arguments.results, arguments.mirror)


def finish(
    training: Training, data: Dataset, out: Path, results: Path, mirror: bool = True
) -> None:
    """Write the version folder and the result file."""
    parameters = sum(p.numel() for p in training.model.parameters() if p.requires_grad)
    progress = training.progress
    precision = "bfloat16" if training.settings.bfloat16 else "float32"
    facts = {
        "parameters": f"{parameters:,}",
        "training": (
            f"{progress.train_s / 60:.0f} min ({progress.cpu_s / 60:.0f} CPU-min) in {precision} "
            f"on {machine()}"
        ),
    }

    def documents(published: Published) -> dict[str, str]:
        return {"CARD.md": card(published, facts, VERSION, mirror), "LICENSE": LICENSE}

    deployed = training.model.deployed()
    net = Mirrored(deployed) if mirror else deployed
    candidate = Candidate(NAME, VERSION, net, OUTPUTS, data.classes, half=True)
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
            "train_cpu_s": round(training.progress.cpu_s, 1),
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
