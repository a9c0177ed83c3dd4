"""A collection outlives its server, however that ends."""

from __future__ import annotations

import base64
import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from typer.testing import CliRunner

from server.cli import app
from tests.e2e.conftest import Served
from tests.server.consoles import widen_consoles
from tests.server.similarity.nets import add_eyes, png

pytestmark = pytest.mark.e2e

Serve = Callable[..., Served]


def run(*arguments: str) -> str:
    widen_consoles()
    done = CliRunner().invoke(app, [*arguments], env={"COLUMNS": "300"})
    assert done.exit_code == 0, done.output + repr(done.exception)
    return str(done.output)


def nearest(url: str, data: bytes) -> tuple[str, float]:
    answer = httpx.post(
        f"{url}/similar?k=1", content=data, headers={"content-type": "image/png"}, timeout=200.0
    )
    [hit] = answer.json()["results"][0]["hits"]
    return hit["id"], hit["score"]


def test_a_folder_is_indexed_searched_and_still_there_after_restarts(
    serve: Serve, tmp_path: Path
) -> None:
    add_eyes(tmp_path / "models")
    photos = tmp_path / "photos" / "animals"
    photos.mkdir(parents=True)
    for n in range(30):
        (photos / f"{n}.png").write_bytes(png(n))
    collections = str(tmp_path / "collections")
    first = serve(tmp_path / "models", collections=collections)
    assert not Path(collections).exists()  # made with the first collection
    common = ("--server", first.url)
    assert "30 added" in run("index", str(photos.parent), "--collection", "zoo", *common)
    assert nearest(first.url, png(7)) == ("animals/7.png", pytest.approx(1.0, abs=1e-4))
    assert "animals/7.png" in run("similar", str(photos / "7.png"), "-k", "2", *common)
    gone = httpx.delete(f"{first.url}/collections/zoo/items/animals/7.png", timeout=200.0)
    assert gone.json()["deleted"] == 1
    first.terminate()
    assert first.wait(200.0) == 0

    second = serve(tmp_path / "models", collections=collections)
    status = httpx.get(f"{second.url}/collections/zoo", timeout=200.0).json()
    assert (status["count"], status["pictures"], status["version"]) == (29, 29, "1")
    assert nearest(second.url, png(8))[0] == "animals/8.png"
    assert nearest(second.url, png(7))[0] != "animals/7.png"
    again = run("index", str(photos.parent), "--collection", "zoo", "--server", second.url)
    assert "1 added, 0 replaced, 29 there already" in again
    acknowledged = _load_until_killed(second)

    third = serve(tmp_path / "models", collections=collections)
    page = httpx.get(f"{third.url}/collections/zoo/items?limit=1000", timeout=200.0).json()
    there = {item["id"] for item in page["items"]}
    assert {f"line{n}" for n in range(acknowledged)} <= there
    assert nearest(third.url, png(100))[0] == "line0"


def _load_until_killed(served: Served) -> int:
    """Send lines until some are acknowledged, kill the server, and return how many were."""
    url = urlsplit(served.url)
    body = b"".join(
        json.dumps({"id": f"line{n}", "image": {"b64": _b64(png(100 + n))}}).encode() + b"\n"
        for n in range(60)
    )
    with socket.create_connection((url.hostname, url.port), timeout=200.0) as wire:
        wire.sendall(
            f"POST /collections/zoo/items HTTP/1.1\r\nHost: {url.netloc}\r\n"
            "Content-Type: application/x-ndjson\r\nAccept: application/x-ndjson\r\n"
            f"Content-Length: {len(body) + 100_000}\r\n\r\n".encode()
        )
        wire.sendall(body)
        stream = wire.makefile("rb")
        while not (told := stream.readline()).startswith(b"{"):
            assert told, "the server hung up"
        served.process.send_signal(signal.SIGKILL)
        served.process.wait(30.0)
        stream.close()
    done: int = json.loads(told)["done"]
    assert done > 0
    return done


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
