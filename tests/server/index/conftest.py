"""The suite's assertions explain themselves as those of test modules do."""

from __future__ import annotations

import pytest

for part in ("items", "search", "filters", "spaces", "archives", "threads", "machine"):
    pytest.register_assert_rewrite(f"tests.server.index.suite_{part}")
