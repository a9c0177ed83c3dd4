"""A server that is killed while a collection moves to another version loses nothing of it."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from tests.e2e.conftest import Served
from tests.server.running import wait_until
from tests.server.similarity.nets import add_eyes, png, vector_of

pytestmark = pytest.mark.e2e

COUNT = 600
PNG = {"content-type": "image/png"}
Serve = Callable[..., Served]


def pictures() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for seed in range(COUNT):
            entry = tarfile.TarInfo(f"{seed}.png")
            data = png(seed)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def publish(root: Path, version: str, aside: Path) -> None:
    """Put a version into the repository, whole at once."""
    folder = add_eyes(aside, version, dim=6)
    shutil.move(folder, root / "eyes" / version)


def test_kill_while_the_collection_moves(serve: Serve, tmp_path: Path) -> None:
    root, where = tmp_path / "models", {"collections": str(tmp_path / "collections")}
    add_eyes(root, "1")
    served = serve(root, **where)
    with httpx.Client(base_url=served.url, timeout=60) as client:
        assert client.post("/collections", json={"name": "c", "model": "eyes"}).status_code == 201
        tar = {"content-type": "application/x-tar"}
        added = client.post("/collections/c/items", content=pictures(), headers=tar).json()
        assert (added["done"], added["failed"]) == (COUNT, 0)
    publish(root, "2", tmp_path / "aside")
    served.read_until(f"{COUNT} pictures to embed for eyes@2")
    served.process.kill()
    served.process.wait()

    # The newest version is the only one that is loaded now: it answers, and fills its space.
    again = serve(root, **where)
    with httpx.Client(base_url=again.url, timeout=60) as client:

        def state() -> dict:
            return client.get("/collections/c").json()

        wait_until(lambda: state()["index"]["missing"] == 0)
        assert (state()["count"], state()["version"]) == (COUNT, "2")
        for seed in (0, 17, COUNT - 1):
            answer = client.post("/similar?k=3", content=png(seed), headers=PNG).json()
            assert answer["version"] == "2" and answer["missing"] == 0
            hits = answer["results"][0]["hits"]
            assert hits[0]["id"] == f"{seed}.png"
            asked = vector_of(png(seed), "2")
            for hit in hits:
                item = vector_of(png(int(hit["id"].removesuffix(".png"))), "2")
                assert np.isclose(hit["score"], asked @ item, atol=1e-3)
