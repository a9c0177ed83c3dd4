"""What the models of one repository share, and the records of loads and failures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from server.errors import ServerError
from server.metrics import Metrics
from server.repository.deployment import Attachment, Deployment
from server.repository.loader import LoadOptions
from server.repository.scan import VersionSnapshot

if TYPE_CHECKING:
    from server.repository.served_model import ServedModel


QUEUED, PREPARING = "queued", "prepare"  # the stages of a load that may be cancelled


@dataclass
class Host:
    """What all models of a repository share."""

    metrics: Metrics
    attachments: Sequence[Attachment]
    options: LoadOptions
    explicit: bool
    drain_timeout_s: float
    load_slots: asyncio.Semaphore
    models: dict[str, ServedModel] = field(default_factory=dict)
    default_routes: dict[str, Deployment] = field(default_factory=dict)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    stopping: bool = False

    @property
    def brief_attachments(self) -> Sequence[Attachment]:
        """Those that are prepared as a part of the load."""
        return [each for each in self.attachments if not getattr(each, "takes_long", False)]

    @property
    def lasting_attachments(self) -> Sequence[Attachment]:
        """Those whose preparing follows on it, and may take long; they say `takes_long`."""
        return [each for each in self.attachments if getattr(each, "takes_long", False)]

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Start a task and keep it until it is done."""
        task = asyncio.create_task(coroutine, name=name)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


@dataclass
class LoadJob:
    """A load under way."""

    snapshot: VersionSnapshot
    stage: str = QUEUED
    wanted: bool = True
    since: float = field(default_factory=time.time)
    task: asyncio.Task[None] | None = None
    deployment: Deployment | None = None  # once its files are loaded

    @property
    def progress(self) -> str:
        """What it is at, for people."""
        doing = self.deployment.doing if self.deployment is not None else ""
        return f"{self.stage}: {doing}" if doing else self.stage


@dataclass(frozen=True)
class Failure:
    """Why the files with this key are not served."""

    key: str
    error: ServerError
    since: float = field(default_factory=time.time)

    @property
    def reason(self) -> str:
        """The reason without the model's and the version's name."""
        return str(self.error.extra.get("reason", self.error.message))

    def again(self) -> ServerError:
        """Return the error anew, for one more caller to raise."""
        return type(self.error)(self.error.message, **self.error.extra)
