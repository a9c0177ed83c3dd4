"""Waiting for facts, as long as the busiest machine needs."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE_S = 300.0


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE_S) -> None:
    """Wait for a fact; fail when it does not come."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not come true in time"
        time.sleep(0.02)
