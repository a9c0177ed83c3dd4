"""What every store must do, whatever it keeps collections in.

A store's own tests make a class of it and say where the store is:

    class TestEmbedded(StoreSuite):
        @pytest.fixture
        def place(self, tmp_path: Path) -> Place: ...
"""

from __future__ import annotations

from tests.server.index.suite_archives import ArchiveSuite
from tests.server.index.suite_filters import FilterSuite
from tests.server.index.suite_items import ItemSuite
from tests.server.index.suite_machine import MachineSuite
from tests.server.index.suite_search import SearchSuite
from tests.server.index.suite_spaces import SpaceSuite
from tests.server.index.suite_threads import ThreadSuite


class StoreSuite(
    ItemSuite, SearchSuite, FilterSuite, SpaceSuite, ArchiveSuite, ThreadSuite, MachineSuite
):
    """All parts of the suite."""
