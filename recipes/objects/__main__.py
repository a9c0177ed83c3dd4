"""`python -m recipes.objects --data FOLDER --out model_repo`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from recipes.common.data import Dataset
from recipes.common.loop import computes_in_bfloat16
from recipes.common.memory import keep_freed_memory
from recipes.common.report import draw_curve, machine, write_results
from recipes.objects.data import load_tiny_imagenet
from recipes.objects.publish import NAME, VERSION, publish
from recipes.objects.train import Settings, Training

RESULTS = Path(__file__).parents[1] / "results"
PICTURES = Path("model_repo/photos/1/samples")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m recipes.objects", description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="tiny_imagenet200.npz or the folder that holds it"
    )
    parser.add_argument("--out", type=Path, default=Path("model_repo"), help="model repository")
    parser.add_argument("--checkpoints", type=Path, default=Path("build/checkpoints"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of result files")
    parser.add_argument("--cache", type=Path, default=Path("build/objects"), help="decoded data")
    parser.add_argument(
        "--pictures", type=Path, default=PICTURES, help="PNG files that become golden samples"
    )
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    parser.add_argument(
        "--float32", action="store_true", help="do not compute in bfloat16 where the machine can"
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
    progress, parameters = training.progress, sum(p.numel() for p in training.model.parameters())
    precision = "bfloat16" if training.settings.bfloat16 else "float32"
    minutes = f"{progress.train_s / 60:.0f} min ({progress.cpu_s / 60:.0f} CPU-min)"
    facts = {
        "parameters": f"{parameters:,}",
        "training": f"{minutes} in {precision} on {machine()}",
    }
    figures = publish(training.model.deployed(), data, pictures, out, facts)
    curve = progress.curve
    # Of the file, with the statistics as they were measured last.
    curve[-1] |= {"test_accuracy": figures.top1, "test_accuracy_top5": figures.top5}
    write_results(
        results / f"{NAME}-{VERSION}.json",
        {
            "model": NAME,
            "version": VERSION,
            "data": f"{data.train.source}; {data.test.source}",
            "test_accuracy": figures.top1,
            "test_accuracy_top5": figures.top5,
            "train_s": round(progress.train_s, 1),
            "train_cpu_s": round(progress.cpu_s, 1),
            "machine": machine(),
            "parameters": parameters,
            "settings": asdict(training.settings),
            "curve": curve,
        },
    )
    draw_curve(
        results / f"{NAME}-{VERSION}.png",
        f"{NAME}: top-1 on the validation split (a tenth of it until the last epoch), %",
        [(point["epoch"], point["test_accuracy"]) for point in curve],
    )
    print(f"{NAME} version {VERSION}: top-1 {figures.top1:.2%}, top-5 {figures.top5:.2%}")


if __name__ == "__main__":
    main()
