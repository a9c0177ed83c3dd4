"""The judges of the swap benchmark see what they are there to see."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnxruntime
import pytest

from benchmarks.common.closed_loop import Answer
from benchmarks.similarity.cifar import Pictures, class_of, tar_of
from benchmarks.similarity.swap import ROOT, second_version
from benchmarks.similarity.swap_picture import draw_latencies
from benchmarks.similarity.swap_truth import (
    K,
    Reply,
    Truth,
    mixed,
    precision,
    recall,
    stale,
    turned,
    unit,
)

CLASSES = ("cat", "dog")


@pytest.fixture
def truth() -> Truth:
    draw = np.random.default_rng(3)
    first = draw.standard_normal((40, 256)).astype(np.float32)
    asked = draw.standard_normal((4, 256)).astype(np.float32)
    ids = [f"{CLASSES[n % 2]}/{n:05}.jpg" for n in range(40)]
    items = {"1": unit(first), "2": turned(first)}
    return Truth(ids, items, {"1": unit(asked), "2": turned(asked)})


def right(truth: Truth, query: int, version: str) -> Reply:
    scores = truth.items[version] @ truth.queries[version][query]
    best = np.argsort(-scores)[:K]
    hits = [(truth.ids[row], float(scores[row])) for row in best]
    return Reply(query, version, f"photos@{version}:abc", hits)


def test_a_mixture_is_seen(truth: Truth) -> None:
    one, two = right(truth, 0, "1"), right(truth, 0, "2")
    assert mixed([one, two], truth) == 0
    # The one version's answer under the other's name, or out of the other's space.
    renamed = Reply(0, "2", "photos@2:abc", one.hits)
    elsewhere = Reply(0, "1", "photos@2:abc", one.hits)
    crossed = truth.items["2"] @ truth.queries["1"][0]
    hits = [(truth.ids[row], float(crossed[row])) for row in np.argsort(-crossed)[:K]]
    short = Reply(0, "1", "photos@1:abc", one.hits[:3])
    wrong = [renamed, elsewhere, Reply(0, "1", "photos@1:abc", hits), short]
    assert mixed([one, *wrong, two], truth) == len(wrong)


def test_precision_and_recall_count_each_query_once(truth: Truth) -> None:
    test = Pictures(CLASSES, [0, 1, 0, 1], [b""] * 4)
    replies = [right(truth, query, "1") for query in (0, 1, 1, 1)]
    expected = np.mean(
        [
            np.mean([class_of(id) == CLASSES[query % 2] for id, _ in right(truth, query, "1").hits])
            for query in (0, 1)
        ]
    )
    assert precision(replies, "1", test) == pytest.approx(expected)
    assert recall(replies, "1", truth) == 1.0
    worse = Reply(2, "1", "s", [*right(truth, 2, "1").hits[:5], *[("cat/00000.jpg", -1.0)] * 5])
    assert recall([*replies, worse], "1", truth) == pytest.approx(25 / 30)


def test_answers_of_the_old_version_after_the_switch() -> None:
    def answer(sent_s: float, version: str) -> Answer:
        hits = {"hits": [{"id": "a", "score": 1.0}]}
        body = {"id": "q-1", "version": version, "space": "s", "results": [hits]}
        return Answer(sent_s, sent_s + 1.0, 200, json.dumps(body).encode())

    answers = [answer(1.0, "1"), answer(4.9, "1"), answer(5.1, "1"), answer(5.2, "2")]
    assert stale(answers, 5.0) == 1


def test_the_second_version_is_the_first_one_turned(tmp_path: Path) -> None:
    first = ROOT / "model_repo" / "photos" / "1"
    second_version(first, tmp_path / "2")
    pictures = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    found = []
    for folder in (first, tmp_path / "2"):
        session = onnxruntime.InferenceSession(folder / "model.onnx")
        found.append(session.run(["logits", "embedding"], {"image": pictures}))
    np.testing.assert_allclose(found[0][0], found[1][0], atol=1e-4)
    np.testing.assert_allclose(unit(found[1][1]), turned(found[0][1]), atol=1e-4)
    assert np.abs(np.sum(unit(found[0][1]) * unit(found[1][1]), axis=1)).max() < 0.5


def test_pictures_of_each_class_alike() -> None:
    pictures = Pictures(CLASSES, [0, 0, 0, 1, 1], [bytes([n]) for n in range(5)])
    first = pictures.first(4)
    assert first.labels == [0, 0, 1, 1] and first.files == [b"\0", b"\1", b"\3", b"\4"]
    assert first.id(2) == "dog/00002.jpg" and class_of(first.id(2)) == "dog"
    assert len(tar_of(first, range(2))) > 1024


def test_the_picture_is_one() -> None:
    answers = [Answer(n / 10, n / 10 + 0.01 * (1 + n % 7), 200, b"") for n in range(300)]
    svg = draw_latencies(answers, [(5.0, "published"), (20.0, "switched")])
    drawn = ElementTree.fromstring(svg)
    names = [element.tag.rpartition("}")[2] for element in drawn]
    assert names.count("polyline") == 2 and "published" in svg
    assert draw_latencies(answers[:1], [])
