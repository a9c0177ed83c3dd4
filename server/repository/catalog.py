"""What is being served: the models as they were last seen, and leases on what is loaded.

Leases are taken and released on the event loop's thread, without a lock and without waiting.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from server.errors import (
    InvalidInput,
    ModelNotFound,
    ModelNotReady,
    ServerDraining,
    VersionNotFound,
)
from server.metrics import Metrics
from server.repository import describe
from server.repository.background import in_background
from server.repository.completeness import CompletenessChecker, Verdict
from server.repository.deployment import Attachment, Deployment, Lease
from server.repository.host import Host
from server.repository.layout import natural_sorted
from server.repository.loader import LoadOptions
from server.repository.scan import ModelSnapshot, scan_repository
from server.repository.served_model import ServedModel
from server.repository.status import IndexEntry, ModelStatus
from server.repository.watcher import Watcher
from server.settings import Settings

MAX_CONCURRENT_LOADS = 2  # one load that takes long must not hold up all others
MAX_NAMES_SHOWN = 20
MAX_NAME_SHOWN = 128

logger = logging.getLogger(__name__)

Verdicts = dict[str, Verdict]  # by version


class Catalog:
    """The models of one repository."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        attachments: Sequence[Attachment] = (),
        *,
        only: str | None = None,
    ) -> None:
        """Prepare; nothing is read before `start`. `only` names the one model that is looked at."""
        self._only = only
        self.root: Path = settings.repository
        self.settings = settings
        self._host = Host(
            metrics=metrics,
            attachments=tuple(attachments),
            options=LoadOptions(
                device=settings.device,
                threads=settings.engine_threads,
                isolate=settings.isolate,
                cache_dir=settings.cache_dir,
                load_timeout_s=settings.load_timeout_s,
            ),
            explicit=settings.control == "explicit",
            drain_timeout_s=settings.drain_timeout_s,
            load_slots=asyncio.Semaphore(MAX_CONCURRENT_LOADS),
        )
        self.models: dict[str, ServedModel] = self._host.models
        self._routes = self._host.default_routes
        self._checker = CompletenessChecker(settings.settle_s)
        self._refreshing = asyncio.Lock()
        self._watcher = Watcher(self.root, self.refresh, settings.reconcile_s)
        self._identity: tuple[int, int] | None = None
        self._readable = True
        self._was_ready = False
        self._settles_at: float | None = None  # monotonic; when waiting for files at the start ends

    # Life

    async def start(self) -> None:
        """Read the repository and begin to load; does not wait for the loads (see `ready`)."""
        wait_s = await self.refresh()
        self._settles_at = time.monotonic() + self.settings.settle_s + 1.0
        self._watcher.start(events=self.settings.watch)
        if wait_s is not None:
            self._watcher.wake()

    async def stop(self) -> None:
        """Take no more leases, drain what is loaded within `drain_timeout_s`, and free it."""
        await self._watcher.stop()
        self._host.stopping = True
        for model in self.models.values():
            model.converge()
        while self._host.tasks:
            await asyncio.gather(*self._host.tasks, return_exceptions=True)

    @property
    def ready(self) -> bool:
        """Whether every model that is there at the start has been loaded, or has failed.

        What is loaded later does not change it: other models can answer meanwhile.
        """
        if self._settles_at is None or self._host.stopping:
            return False
        if not self._was_ready:
            settling = time.monotonic() < self._settles_at
            self._was_ready = not any(_is_starting(m, settling) for m in self.models.values())
        return self._was_ready

    async def refresh(self) -> float | None:
        """Look at the folder and act on it.

        Returns:
            In how many seconds to look again because files are still settling, or None.
        """
        async with self._refreshing:
            try:
                found, verdicts, wait_s = await in_background(self._look, name="scan")
            except OSError as error:
                self._note_unreadable(error)
                return None
            self._readable = True
            self._apply(found, verdicts)
            return wait_s

    def _look(self) -> tuple[dict[str, ModelSnapshot], dict[str, Verdicts], float | None]:
        found = scan_repository(self.root, self.settings.state_dir)
        if self._only is not None:
            found = {name: model for name, model in found.items() if name == self._only}
        self._check_mounted(empty=not found)
        wall_s, monotonic_s = time.time(), time.monotonic()
        judge = self._checker.judge
        verdicts = {
            name: {v: judge(s, wall_s, monotonic_s) for v, s in snapshot.versions.items()}
            for name, snapshot in found.items()
        }
        self._checker.forget_all_but(s.key for m in found.values() for s in m.versions.values())
        waits = [v.wait_s for each in verdicts.values() for v in each.values()]
        return found, verdicts, min((wait for wait in waits if wait is not None), default=None)

    def _check_mounted(self, *, empty: bool) -> None:
        # A volume that was unmounted leaves an empty folder behind: another one than before. What
        # is loaded stays loaded then.
        stat = self.root.stat()
        identity = (stat.st_dev, stat.st_ino)
        if empty and self._identity not in (None, identity):
            raise OSError(errno.ENOENT, "it is another folder than before, and empty")
        self._identity = identity

    def _note_unreadable(self, error: OSError) -> None:
        if self._readable:
            logger.error("the repository %s cannot be read: %s", self.root, error.strerror)
        self._readable = False

    def _apply(self, found: dict[str, ModelSnapshot], verdicts: dict[str, Verdicts]) -> None:
        if self._host.stopping:
            return
        for name in found.keys() - self.models.keys():
            self.models[name] = ServedModel(name, self._host)
        for name, model in list(self.models.items()):
            model.update(found.get(name), verdicts.get(name, {}))

    # Leases

    def lease(
        self, model: str | None, version: str | None = None, label: str | None = None
    ) -> Lease:
        """Take a lease on what serves a request; release it when the request is resolved.

        Args:
            model: its name; None when there is only one.
            version: a loaded version; None for the one that the model serves by default.
            label: a label in place of a version.

        Raises:
            ModelNotFound, VersionNotFound: there is no such thing.
            ModelNotReady: it is there, but not loaded now.
            InvalidInput: no model is named and several could be meant.
        """
        if version is None and label is None and model is not None:
            deployment = self._routes.get(model)
            if deployment is not None:
                return Lease(deployment)
        return Lease(self._find(model, version, label))

    def _find(self, name: str | None, version: str | None, label: str | None) -> Deployment:
        if self._host.stopping:
            raise ServerDraining("the server is shutting down")
        if name is None:
            name = self._only_model()
        model = self.model(name)
        if label is not None:
            version = self._labelled(model, version, label)
        if version is None:
            return self._default(model)
        deployment = model.live.get(version)
        if deployment is None:
            raise self._not_loaded(model, version)
        return deployment

    def _only_model(self) -> str:
        if len(self._routes) == 1:
            return next(iter(self._routes))
        if not self._routes:
            raise ModelNotReady("no model is loaded; see GET /models for the reasons")
        raise InvalidInput(
            f"name the model: {len(self._routes)} are loaded ({_shown(self._routes)})",
            field="model",
            expected=natural_sorted(self._routes)[:MAX_NAMES_SHOWN],
            got=None,
        )

    def model(self, name: str) -> ServedModel:
        """Return a model of the repository, loaded or not.

        Raises:
            ModelNotFound: there is none of this name.
        """
        found = self.models.get(name)
        if found is None:
            known = _shown(self.models) or "none"
            raise ModelNotFound(
                f"there is no model {name[:MAX_NAME_SHOWN]!r}; the repository has: {known}",
                model=name[:MAX_NAME_SHOWN],
            )
        return found

    def _labelled(self, model: ServedModel, version: str | None, label: str) -> str:
        target = model.labels.get(label)
        if target is None:
            known = _shown(model.labels) or "none"
            raise VersionNotFound(
                f"model {model.name!r} has no label {label[:MAX_NAME_SHOWN]!r}; it has: {known}",
                model=model.name,
            )
        if version is not None and version != target:
            raise InvalidInput(
                f"label {label!r} is version {target!r}, but version {version!r} is named as well; "
                "give one of the two",
                field="label",
                expected=version,
                got=target,
            )
        return target

    def _default(self, model: ServedModel) -> Deployment:
        deployment = self._routes.get(model.name)
        if deployment is not None:
            return deployment
        states = "; ".join(
            f"version {entry.version} {entry.state}" + (f": {entry.reason}" if entry.reason else "")
            for entry in describe.index_entries(model)[-3:]
        )
        raise ModelNotReady(
            f"model {model.name!r} has no version that can answer now ({states or 'no versions'})",
            model=model.name,
        )

    def _not_loaded(self, model: ServedModel, version: str) -> VersionNotFound | ModelNotReady:
        if version in model.jobs:
            return ModelNotReady(
                f"model {model.name!r} version {version!r} is being loaded; try again soon",
                model=model.name,
                version=version,
            )
        failure = model.failure(version)
        if failure is not None:
            return ModelNotReady(failure.error.message, model=model.name, version=version)
        loaded = _shown(model.live) or "none"
        if version in model.versions():
            hint = f"is not loaded (loaded: {loaded}); load it with POST /models/{model.name}/load"
        else:
            hint = f"does not exist (loaded: {loaded})"
        return VersionNotFound(
            f"model {model.name!r} version {version[:MAX_NAME_SHOWN]!r} {hint}", model=model.name
        )

    # Telling

    def deployments(self) -> list[Deployment]:
        """Return everything that can be leased now."""
        return [m.live[version] for m in self._sorted() for version in natural_sorted(m.live)]

    def defaults(self) -> list[Deployment]:
        """Return what every model serves where a request names no version."""
        return [self._routes[name] for name in natural_sorted(self._routes)]

    def status(self, name: str | None = None) -> list[ModelStatus]:
        """Return the status of all models, or of one.

        Raises:
            ModelNotFound: there is no model of this name.
        """
        chosen = self._sorted() if name is None else [self.model(name)]
        return [describe.model_status(model) for model in chosen]

    def index(self) -> list[IndexEntry]:
        """Return one line per version, in a stable order."""
        return [entry for model in self._sorted() for entry in describe.index_entries(model)]

    def _sorted(self) -> list[ServedModel]:
        return [self.models[name] for name in natural_sorted(self.models)]


def _is_starting(model: ServedModel, settling: bool) -> bool:
    waits = any(verdict.wait_s is not None for verdict in model.verdicts.values())
    return bool(model.jobs) or (settling and waits and model.default is None)


def _shown(names: Iterable[str]) -> str:
    ordered = natural_sorted(names)
    more = f" and {len(ordered) - MAX_NAMES_SHOWN} more" if len(ordered) > MAX_NAMES_SHOWN else ""
    return ", ".join(ordered[:MAX_NAMES_SHOWN]) + more
