"""Classifiers from 5, 10 and 20 pictures per class, learned and served over HTTP.

    MILLRACE_TEST_DATA=... python -m benchmarks.similarity.heads            # 10,000 test pictures
    MILLRACE_TEST_DATA=... python -m benchmarks.similarity.heads --quick    # 200, two classifiers

Pictures are drawn from a training split and sent as a zip; the clock runs until the new model has
classified a picture. Its accuracy is that of `/classify` on the official test split. Beside it,
scikit-learn is fitted here on the features that `/embed` gives for the same pictures, with the
regularisation that the report names, and judged on the features of the same test pictures.
"""

from __future__ import annotations

import argparse
import base64
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import Normalizer

from benchmarks.common.machine import machine_facts
from benchmarks.common.results import (
    Target,
    at_most,
    markdown_table,
    targets_table,
    write_result,
)
from benchmarks.common.server_process import ServerProcess
from benchmarks.similarity.cifar import Pictures, call
from benchmarks.similarity.heads_data import draw, read_split, zip_of

ROOT = Path(__file__).parents[2]
# Base model and data set; `photos` was trained on CIFAR-10 and is not asked about it.
PAIRS = (("objects", "cifar10"), ("objects", "mnist"), ("photos", "mnist"))
EACH = (5, 10, 20)
GROUP = 250  # pictures of one request
SERVED_S = 5.0  # promised from upload to served, for 200 pictures
MOST_APART = 0.001  # of the accuracies, since features of a batch differ in their last bits


@dataclass(frozen=True)
class Row:
    """One classifier."""

    base: str
    data: str
    each: int
    seed: int
    pictures: int
    accuracy: float  # served
    offline: float  # scikit-learn on the same features
    same_answers: float  # share of test pictures for which both name the same class
    cross_validated: float
    strength: float
    served_s: float  # from the upload's first byte to the first answer of the new model
    stages_s: dict[str, float]


def post_items(url: str, path: str, files: Sequence[bytes], parameters: dict[str, Any]) -> Any:
    """Return the results of pictures, in groups."""
    results: list[Any] = []
    for start in range(0, len(files), GROUP):
        items = [
            {"image": {"b64": base64.b64encode(file).decode()}}
            for file in files[start : start + GROUP]
        ]
        body = json.dumps({"inputs": items, "parameters": parameters}).encode()
        results += call(f"{url}{path}", body)["results"]
    return results


def features_of(url: str, base: str, files: Sequence[bytes]) -> NDArray[np.float32]:
    """Return the features (n, d) of pictures, as the graph gives them."""
    parameters = {"normalize": False, "encoding": "base64"}
    found = post_items(url, f"/embed?model={base}", files, parameters)
    return np.stack([np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in found])


def learn(url: str, base: str, name: str, pictures: Pictures, places: list[int]) -> Any:
    """Learn a classifier; return the answer, and the seconds until it has answered once."""
    body = zip_of(pictures, places)
    began = time.perf_counter()
    answer = call(f"{url}/models/{base}/heads?name={name}", body, "application/zip")
    call(f"{url}/classify?model={name}", pictures.files[places[0]], "image/jpeg")
    return answer, time.perf_counter() - began


def offline(
    train: NDArray[np.float32], targets: NDArray[np.int64], strength: float
) -> tuple[Normalizer, NDArray[np.float64], LogisticRegression]:
    """Fit scikit-learn's own classes: rows of length 1, centred, the same penalty per feature."""
    normalizer = Normalizer()
    rows = normalizer.fit_transform(train.astype(np.float64))
    centre = rows.mean(axis=0)
    # Dividing features by s is multiplying C by 1 / s**2.
    spread = np.square(rows - centre).sum(axis=1).mean()
    model = LogisticRegression(C=strength / spread, max_iter=5000, tol=1e-8)
    return normalizer, centre, model.fit(rows - centre, targets)


class Bench:
    """A server, and what was measured with it."""

    def __init__(self, url: str, tested: int, seeds: int) -> None:
        self.url, self.tested, self.seeds = url, tested, seeds
        self.rows: list[Row] = []

    def measure(self, base: str, data: str, shots: Sequence[int]) -> None:
        """Learn and judge classifiers of one base on one data set."""
        train, test = read_split(data, "train"), read_split(data, "test")
        if self.tested < len(test.files):  # the split may be in order of class
            test = test.first(self.tested)
        files, truth = test.files, np.asarray(test.labels)
        tested = features_of(self.url, base, files)
        for each in shots:
            for seed in range(self.seeds):
                places = draw(train, each, seed)
                self.rows.append(
                    self._row(base, data, (each, seed), train, places, files, truth, tested)
                )
                row = self.rows[-1]
                print(
                    f"{base} {data} {each} per class: served {row.accuracy:.2%}, offline "
                    f"{row.offline:.2%}, same answers {row.same_answers:.2%}, {row.served_s:.2f} s "
                    f"{row.stages_s}"
                )

    def _row(
        self,
        base: str,
        data: str,
        drawn: tuple[int, int],
        train: Pictures,
        places: list[int],
        files: Sequence[bytes],
        truth: NDArray[np.int64],
        tested: NDArray[np.float32],
    ) -> Row:
        each, seed = drawn
        name = f"{data}-{base}-{each}-{seed}"
        answer, seconds = learn(self.url, base, name, train, places)
        labels = answer["report"]["labels"]
        index = {label: k for k, label in enumerate(train.classes)}
        results = post_items(self.url, f"/classify?model={name}", files, {"top_k": 1})
        served = np.array([index[r["predictions"][0]["label"]] for r in results])
        # In the order of the report's labels, as the server learned them.
        order = sorted(places, key=lambda p: (labels.index(train.classes[train.labels[p]]), p))
        features = features_of(self.url, base, [train.files[p] for p in order])
        targets = np.array([train.labels[p] for p in order])
        normalizer, centre, model = offline(features, targets, answer["report"]["strength"])
        found = model.predict(normalizer.transform(tested.astype(np.float64)) - centre)
        return Row(
            base,
            data,
            each,
            seed,
            len(places),
            float((served == truth).mean()),
            float((found == truth).mean()),
            float((found == served).mean()),
            answer["report"]["accuracy"],
            answer["report"]["strength"],
            seconds,
            answer["seconds"],
        )


def targets_of(rows: Sequence[Row]) -> list[Target]:
    """Compare with what was promised."""
    apart = max(abs(row.accuracy - row.offline) for row in rows)
    found = [at_most("served and offline accuracy apart", apart, MOST_APART)]
    twenty = [row.served_s for row in rows if row.pictures == 200]
    if twenty:
        found.append(at_most("seconds from upload to served, 200 pictures", max(twenty), SERVED_S))
    return found


def text_of(rows: Sequence[Row], targets: Sequence[Target], tested: int) -> str:
    """Return the result as Markdown."""
    table = markdown_table(
        [
            "base",
            "data",
            "per class",
            "served",
            "scikit-learn",
            "same answers",
            "cross-validated",
            "s",
        ],
        [
            [
                row.base,
                row.data,
                row.each,
                f"{row.accuracy:.2%}",
                f"{row.offline:.2%}",
                f"{row.same_answers:.2%}",
                f"{row.cross_validated:.2%}",
                f"{row.served_s:.2f}",
            ]
            for row in rows
        ],
    )
    return (
        "# Classifiers from a few pictures\n\n"
        f"Accuracy on {tested} pictures of the official test split, served over HTTP and by "
        "scikit-learn on the same features; seconds from upload to the first answer.\n\n"
        f"{table}\n{targets_table(targets)}"
    )


def main() -> int:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few pictures; nothing is written")
    parser.add_argument("--test", type=int, default=10_000, help="test pictures")
    parser.add_argument("--seeds", type=int, default=1, help="draws of training pictures")
    parser.add_argument("--base", action="append", help="only these base models")
    options = parser.parse_args()
    tested = min(options.test, 200) if options.quick else options.test
    there = {path.name for path in (ROOT / "model_repo").iterdir()}
    pairs = [p for p in PAIRS if p[0] in there and (not options.base or p[0] in options.base)]
    with tempfile.TemporaryDirectory(prefix="millrace-heads-") as name:
        folder = Path(name)
        for base in {base for base, _ in pairs}:
            shutil.copytree(ROOT / "model_repo" / base, folder / "models" / base)
        with ServerProcess(
            folder / "models", folder / "log", MILLRACE_COLLECTIONS=str(folder / "collections")
        ) as server:
            bench = Bench(server.url, tested, options.seeds)
            for base, data in pairs[:1] if options.quick else pairs:
                bench.measure(base, data, EACH[1:] if options.quick else EACH)
    targets = targets_of(bench.rows)
    text = text_of(bench.rows, targets, tested)
    print(text)
    if not options.quick:
        facts = {**machine_facts("scikit-learn"), "test_pictures": tested}
        write_result("similarity-heads", facts, targets, [asdict(row) for row in bench.rows], text)
    return 0 if all(target.reached for target in targets) else 1


if __name__ == "__main__":
    sys.exit(main())
