"""One request on its way through the handlers: identity, deadline, and the time of each phase."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import numpy as np

from server.metrics import ModelMetrics, Phase

_PREFIX = os.urandom(6).hex()
_numbers = itertools.count(1)


class OutcomeLike(Protocol):
    """What one run of a model took and gave."""

    queue_us: int
    batch_us: int
    compute_us: int
    outputs: dict[str, np.ndarray[Any, Any]]


Disconnected = Callable[[], Awaitable[None]]


def new_request_id() -> str:
    """Return an id that no other request of any process has."""
    return f"{_PREFIX}-{next(_numbers):x}"


class Call:
    """The request's identity and clock, whatever protocol it came by.

    `phases` maps a phase's name to seconds. `disconnected` waits until the client has gone.
    """

    __slots__ = (
        *("disconnected", "id", "metrics", "model", "output_bytes", "phases", "priority"),
        *("started", "timeout_s", "version"),
    )

    def __init__(
        self,
        request_id: str | None = None,
        *,
        timeout_s: float | None = None,
        disconnected: Disconnected | None = None,
    ) -> None:
        """Start the clock."""
        self.started = time.monotonic()
        self.id = request_id or new_request_id()
        self.timeout_s = timeout_s
        self.priority = 0
        self.disconnected = disconnected
        self.phases: dict[str, float] = {}
        self.output_bytes = 0  # of the arrays that will be written
        self.model = ""
        self.version = ""
        # Bound while the lease is held: by name, counting would bring back an unloaded version.
        self.metrics: ModelMetrics | None = None

    def of(self, model: str, version: str, metrics: ModelMetrics) -> None:
        """Say which deployment answers the call."""
        self.model = model
        self.version = version
        self.metrics = metrics

    def observe(self, phase: Phase, seconds: float) -> None:
        """Add to the time of a phase, and count it for the deployment."""
        self.add(phase.label, seconds)
        if self.metrics is not None:
            self.metrics.observe(phase, seconds)

    def add(self, phase: str, seconds: float) -> None:
        """Add to the time of a phase."""
        self.phases[phase] = self.phases.get(phase, 0.0) + seconds

    def ran(self, outcome: OutcomeLike) -> None:
        """Take over what one run of the model took and gave."""
        self.add("queue", outcome.queue_us * 1e-6)
        self.add("batch", outcome.batch_us * 1e-6)
        self.add("compute", outcome.compute_us * 1e-6)
        for value in outcome.outputs.values():
            self.output_bytes += getattr(value, "nbytes", 0)  # sequences and maps have none

    def due(self, model_timeout_ms: int | None, longest_s: float) -> float:
        """Return the monotonic time by which the answer must be there.

        The request's own timeout counts before the model's; neither may exceed the server's.
        """
        timeout_s = self.timeout_s
        if timeout_s is None:
            timeout_s = longest_s if model_timeout_ms is None else model_timeout_ms / 1000
        return self.started + min(timeout_s, longest_s)

    def elapsed(self) -> float:
        """Return the seconds since the request arrived."""
        return time.monotonic() - self.started
