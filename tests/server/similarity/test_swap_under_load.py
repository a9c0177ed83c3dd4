"""Versions are swapped while clients search, add and delete: no answer fails, none is mixed.

The versions have vectors of different lengths, and two of the same: every score of every answer
must be what numpy makes of the version that the answer names.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from server.settings import Settings
from tests.server.running import running_server, wait_until
from tests.server.similarity.nets import add_eyes, png, vector_of

DIMS = {"1": 6, "2": 9, "3": 6}
FIRST = 60  # items at the start
CLIENTS = 3
PNG = {"content-type": "image/png"}


@dataclass
class Truth:
    """What was acknowledged, and what each version makes of it."""

    url: str
    acked: set[int] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    _vectors: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)

    def vector(self, seed: int, version: str) -> np.ndarray:
        known = self._vectors.get((seed, version))
        if known is None:
            known = vector_of(png(seed), version, DIMS[version])
            self._vectors[(seed, version)] = known
        return known

    def search(self, client: httpx.Client, seed: int) -> None:
        """Search by a picture that is in the collection, and check the answer."""
        before = frozenset(self.acked)
        response = client.post("/similar?collection=c&k=5", content=png(seed), headers=PNG)
        if response.status_code != 200:
            self.faults.append(response.text)
            return
        answer = response.json()
        version = answer["version"]
        self.answers[version] = self.answers.get(version, 0) + 1
        hits = answer["results"][0]["hits"]
        self._check(seed, version, hits, before)
        if not answer["space"].startswith(f"eyes@{version}:") or answer["model"] != "eyes":
            self.faults.append(f"version {version} answered from {answer['space']}")

    def _check(self, seed: int, version: str, hits: list[dict], before: frozenset[int]) -> None:
        asked = self.vector(seed, version)
        found = {int(hit["id"]): hit["score"] for hit in hits}
        for id, score in found.items():
            expected = float(asked @ self.vector(id, version))
            if abs(score - expected) > 1e-3:
                self.faults.append(f"version {version}: {id} has {score}, expected {expected}")
        least = min(found.values(), default=-2.0)
        for id in before - found.keys():
            score = float(asked @ self.vector(id, version))
            if score > least + 1e-3 or len(found) < 5:
                self.faults.append(f"version {version}: {id} with {score} is not among {found}")

    def add(self, client: httpx.Client, seeds: list[int]) -> None:
        for seed in seeds:
            url = f"/collections/c/items?id={seed}"
            response = client.post(url, content=png(seed), headers=PNG)
            if response.status_code != 200 or response.json()["failed"]:
                self.faults.append(response.text)
            else:
                self.acked.add(seed)

    def searcher(self, number: int) -> None:
        draw = random.Random(number)
        with httpx.Client(base_url=self.url, timeout=200.0) as client:
            while not self.stop.is_set():
                self.search(client, draw.choice(sorted(self.acked)))

    def adder(self) -> None:
        with httpx.Client(base_url=self.url, timeout=200.0) as client:
            for seed in range(1000, 5000):
                if self.stop.is_set():
                    return
                self.add(client, [seed])
                # Just acknowledged, and found, whatever version answers by now.
                self.search(client, seed)
                time.sleep(0.02)


def guarded(truth: Truth, work, *arguments) -> threading.Thread:
    """Run `work` on a thread; what it raises is a fault."""

    def run() -> None:
        try:
            work(*arguments)
        except Exception as error:
            truth.faults.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def serving(client: httpx.Client) -> str:
    return client.get("/models/eyes").json()["default"]


def test_swaps_under_load(tmp_path: Path) -> None:
    root = tmp_path / "models"
    add_eyes(root, "1", dim=DIMS["1"])
    settings = Settings(
        repository=root,
        collections=str(tmp_path / "collections"),
        isolate=False,
        watch=False,
        reconcile_s=600.0,
        settle_s=0.0,
        worker_threads=2,
        recall_probe_share=1.0,
    )
    with (
        running_server(settings) as server,
        httpx.Client(base_url=server.url, timeout=200.0) as client,
    ):
        assert client.post("/collections", json={"name": "c", "model": "eyes"}).status_code == 201
        truth = Truth(server.url)
        truth.add(client, list(range(FIRST)))
        assert not truth.faults, truth.faults[:3]
        threads = [guarded(truth, truth.searcher, number) for number in range(CLIENTS)]
        threads.append(guarded(truth, truth.adder))
        try:
            _hear_from(truth, "1")
            for version in ("2", "3"):
                add_eyes(root, version, dim=DIMS[version])
                loaded = client.post("/models/eyes/load", json={"version": version})
                assert loaded.status_code == 200, loaded.text
                assert serving(client) == version
                _hear_from(truth, version)
            assert client.post("/models/eyes/rollback").status_code == 200
            assert serving(client) == "2"
            _hear_from(truth, "2")
        finally:
            truth.stop.set()
            for thread in threads:
                thread.join()
        assert not truth.faults, truth.faults[:5]
        assert truth.answers.keys() == {"1", "2", "3"}
        # All that was ever acknowledged is there, and in the space that answers now.
        for seed in sorted(truth.acked)[-40:]:
            truth.search(client, seed)
        state = client.get("/collections/c").json()
        assert state["count"] == len(truth.acked) and state["index"]["missing"] == 0
        assert state["version"] == "2" and not truth.faults, truth.faults[:3]
        assert (
            b'millrace_collection_recall{collection="c",k="10"} 1.0'
            in client.get("/metrics").content
        )


def _hear_from(truth: Truth, version: str) -> None:
    """Wait until a few more answers came from a version."""
    enough = truth.answers.get(version, 0) + 10
    wait_until(lambda: truth.faults or truth.answers.get(version, 0) >= enough)
