from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.server.running import RunningServer, running_server
from tests.server.shouting import shouting_models, write_sample, write_shouting
from tests.server.small_settings import small_settings
from tests.server.zoo import add_echo, build_zoo


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_zoo(tmp_path_factory.mktemp("zoo"))


@pytest.fixture(scope="session")
def server(zoo: Path) -> Iterator[RunningServer]:
    """The server that the tests of this folder share; they leave its models as they are."""
    with running_server(small_settings(zoo)) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=200.0) as session:
        yield session


@pytest.fixture(scope="session")
def shouting_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """A server with a translation model that shouts, and one of tensors."""
    root = tmp_path_factory.mktemp("shouting")
    folder = write_shouting(root, generation_config={"num_beams": 2, "max_new_tokens": 200})
    write_sample(folder, "hello", text="Hallo Welt.", translation="HALLO WELT.")
    limits = "[translation]\nmax_characters = 3000\nmax_sentences = 40\ncache_bytes = 0\n"
    (root / "shout" / "model.toml").write_text(limits + "[generation]\nbeams = 1\n")
    add_echo(root, "echo")
    settings = small_settings(root, max_inline_json_bytes=2048)
    with shouting_models(), running_server(settings) as running:
        yield running
