"""The consoles that commands write to, wide enough that no sentence is wrapped."""

from __future__ import annotations

from server.commands import common

WIDTH = 400


def widen_consoles() -> None:
    """Set the width itself: what the environment says counts only until somebody has set one."""
    common.console.width = common.errors.width = WIDTH
