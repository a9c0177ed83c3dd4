"""Settings of servers in tests: small limits, so that a test can pass them, and short waits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from server.settings import Settings

_SMALL: dict[str, Any] = {
    "isolate": False,
    "watch": False,
    "settle_s": 0.0,
    "worker_threads": 2,
    "max_body_bytes": 1 << 20,
    "max_image_pixels": 1_000_000,
    "max_inline_json_bytes": 16_384,
    "max_items": 8,
    "request_timeout_s": 200.0,
    "body_timeout_s": 200.0,
}


def small_settings(repository: Path, **keys: Any) -> Settings:
    """Return settings with small limits; `keys` are those that a test has otherwise."""
    return Settings(**{**_SMALL, "repository": repository, **keys})
