"""What the space of a version still lacks, and how far the filling of it has come."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from server.repository.deployment import Deployment
from server.similarity.spaces import SpaceName


@dataclass(slots=True)
class Progress:
    """How far the filling of a space has come."""

    to: str
    total: int
    done: int = 0
    failed: int = 0
    began_s: float = field(default_factory=time.monotonic)

    def add(self, done: int, failed: int) -> None:
        """Count pictures that are through."""
        self.done += done
        self.failed += failed
        self.total = max(self.total, self.done + self.failed)

    def describe(self, now_s: float | None = None) -> dict[str, Any]:
        """Return it as JSON; `eta_s` is None before there is anything to judge by."""
        through = self.done + self.failed
        took_s = (time.monotonic() if now_s is None else now_s) - self.began_s
        left_s = took_s / through * (self.total - through) if through else None
        return {
            "to": self.to,
            "done": self.done,
            "total": self.total,
            "failed": self.failed,
            "eta_s": None if left_s is None else round(left_s, 1),
        }


class Live:
    """A deployment that answers, as the collections see it."""

    def __init__(self, deployment: Deployment, name: SpaceName | None) -> None:
        """Start with work to do: nothing is known of its spaces yet."""
        self.deployment = deployment
        self.name = name
        self.woken = asyncio.Event()


class Backlog:
    """What was added through other versions, and is not in this space yet."""

    def __init__(self) -> None:
        """Start with nothing to wait for."""
        self.missing = 0  # as last counted
        self.changes = 0
        self._covered = 0
        self._clean = asyncio.Event()
        self._clean.set()

    def grew(self) -> None:
        """Note that an item was added elsewhere."""
        self.changes += 1
        self._clean.clear()

    def cover(self, changes: int) -> None:
        """Note that what had been added at that count is in the space now."""
        self._covered = max(self._covered, changes)
        if self._covered >= self.changes:
            self._clean.set()

    def give_up(self) -> None:
        """Note that nothing comes of waiting for now."""
        self.cover(self.changes)

    @property
    def clean(self) -> bool:
        """Whether nothing is known to be missing."""
        return self._clean.is_set()

    async def settled(self) -> None:
        """Wait until nothing is known to be missing."""
        await self._clean.wait()
