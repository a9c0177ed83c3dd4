from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.settings import Settings
from server.similarity import bindings
from tests.server.running import RunningServer, running_server
from tests.server.similarity.nets import add_eyes
from tests.server.small_settings import small_settings
from tests.server.zoo import add_echo


def settings_of(root: Path, collections: Path | str, **keys: object) -> Settings:
    """Return settings for tests of collections."""
    return small_settings(root, collections=str(collections), max_items=32, **keys)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let searches wait for what was just added as long as a busy machine needs to embed it."""
    monkeypatch.setattr(bindings, "CATCH_UP_S", 200.0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    add_eyes(root)
    add_echo(root, "echo")
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server of a module keeps its collections; it is not there at first."""
    return tmp_path_factory.mktemp("place") / "collections"


@pytest.fixture(scope="module")
def server(models: Path, place: Path) -> Iterator[RunningServer]:
    with running_server(settings_of(models, place, max_bulk_items=500)) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=200.0) as session:
        yield session
