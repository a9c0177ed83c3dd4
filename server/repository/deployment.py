"""A loaded version that answers requests, and the lease that keeps it alive while one runs.

Everything here belongs to the event loop's thread: leases are plain counters without locks.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from server.errors import InvalidInput
from server.model_config import ModelConfig
from server.repository.loader import Model, TextModel


@dataclass(eq=False)
class Deployment:
    """What one switch moves: a version, its engine model, and what other parts attached to it."""

    model: str
    version: str
    config: ModelConfig
    loaded: Model | TextModel
    labels: tuple[str, ...] | None  # class names
    folder: Path
    metadata: dict[str, Any] = field(default_factory=dict)
    attachments: dict[str, Any] = field(default_factory=dict)  # by the attachment's name
    key: str = ""  # of the files it was loaded from
    leases: int = 0
    doing: str = ""  # what an attachment that takes long is at
    _idle: asyncio.Event | None = None

    @property
    def text_model(self) -> TextModel | None:
        """The model, of a version that turns text into text."""
        return self.loaded if isinstance(self.loaded, TextModel) else None

    @property
    def engine_model(self) -> Model:
        """The model, of a version that takes and gives tensors.

        Raises:
            InvalidInput: it turns text into text.
        """
        if isinstance(self.loaded, TextModel):
            raise InvalidInput(
                f"model {self.model!r} turns text into text and has no tensors; send it to "
                "/translate",
                field="model",
                expected="a model of tensors",
                got="translation",
            )
        return self.loaded

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no lease is left; False when the time is over first."""
        self._idle = asyncio.Event()
        if self.leases == 0:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def returned(self) -> None:
        """Count one lease less; the last one wakes the drain."""
        self.leases -= 1
        if self.leases == 0 and self._idle is not None:
            self._idle.set()


class Lease:
    """Holds a deployment until the request is resolved; may be released more than once."""

    __slots__ = ("_held", "deployment")

    def __init__(self, deployment: Deployment) -> None:
        """Take one lease on a deployment."""
        deployment.leases += 1
        self.deployment = deployment
        self._held = True

    def release(self) -> None:
        """Give the deployment back."""
        if self._held:
            self._held = False
            self.deployment.returned()

    def __enter__(self) -> Self:
        """Return the lease itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the deployment back, whatever happened."""
        self.release()


class Attachment(Protocol):
    """A part of the server that takes part in every switch: a batcher, an index, a cache.

    For each deployment `prepare` is called once, off the hot path, after its golden check; then
    `commit` in the same tick of the event loop in which it becomes reachable, or `discard` at once
    when something failed. After a deployment's last lease is back, `discard` gets what `prepare`
    returned. `old` is the deployment that is replaced, or None when nothing is.

    One with an attribute `takes_long = True` is prepared after the others, keeps no place among the
    loads at one time, and says in `new.doing` how far it is: whoever waits for the load waits on
    for as long as that changes.
    """

    name: str

    async def prepare(self, new: Deployment, old: Deployment | None) -> object:
        """Build what belongs to the new deployment; an exception fails its load."""
        ...

    def commit(self, new: Deployment, old: Deployment | None) -> None:
        """Switch; must not fail or wait."""
        ...

    async def discard(self, value: object) -> None:
        """Free what `prepare` returned."""
        ...
