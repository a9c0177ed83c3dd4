from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.settings import Settings
from tests.server.running import RunningServer, running_server
from tests.server.zoo import build_zoo


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def server(zoo: Path) -> Iterator[RunningServer]:
    """The server that the tests of this folder share; they leave its models as they are."""
    settings = Settings(
        repository=zoo,
        isolate=False,
        watch=False,
        settle_s=0.0,
        worker_threads=2,
        max_body_bytes=1 << 20,
        max_image_pixels=1_000_000,
        max_inline_json_bytes=16_384,
        max_items=8,
        request_timeout_s=5.0,
        body_timeout_s=1.0,
    )
    with running_server(settings) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20.0) as session:
        yield session
