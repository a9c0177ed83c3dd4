"""The folder of this machine does what every store must do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from server.index.embedded import EmbeddedStore
from tests.server.index.suite import StoreSuite


@dataclass(frozen=True)
class Folder:
    root: Path
    compact_from: int

    def open(self) -> EmbeddedStore:
        return EmbeddedStore(self.root, compact_from=self.compact_from)


class TestEmbedded(StoreSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Folder:
        # Compaction sets in early, so that all of the suite meets it.
        return Folder(tmp_path / "collections", compact_from=8)
