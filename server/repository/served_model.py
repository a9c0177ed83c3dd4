"""One model's state machine: brings what is loaded to what is wanted.

    LOADING -> READY -> DRAINING -> UNLOADED,   or FAILED

`converge` compares the two and starts loads and drains; it is called after every change (of files,
of the desired state, at the end of a load) and never waits, so that a slow load holds nothing up.
All of it runs on the event loop's thread; between two awaits nobody sees a half-made switch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from server.errors import ServerError
from server.repository import policy
from server.repository.background import in_background, return_memory
from server.repository.completeness import Verdict
from server.repository.deployment import Attachment, Deployment
from server.repository.host import PREPARING, QUEUED, Failure, Host, LoadJob
from server.repository.layout import natural_sorted
from server.repository.loader import (
    LoadedVersion,
    load_failed,
    load_version,
    metadata_of,
)
from server.repository.policy import Wanted
from server.repository.scan import ModelSnapshot, VersionSnapshot
from server.repository.status import State

DISCARD_TIMEOUT_S = 30.0

logger = logging.getLogger(__name__)


class ServedModel:
    """A model of the repository: its files, what is wanted of it, and what is loaded."""

    def __init__(self, name: str, host: Host) -> None:
        """Start with nothing known and nothing loaded."""
        self.name = name
        self.snapshot: ModelSnapshot | None = None  # None: not in the folder any more
        self.verdicts: dict[str, Verdict] = {}
        self.live: dict[str, Deployment] = {}  # what can be leased, by version
        self.default: Deployment | None = None
        self.previous: str | None = None
        self.labels: dict[str, str] = {}
        self.jobs: dict[str, LoadJob] = {}
        self.failures: dict[str, Failure] = {}
        self.draining: list[Deployment] = []
        self.requested: set[str] = set()  # by callers that wait for them now
        self.doomed: set[str] = set()  # about to be deleted
        self.states: dict[str, State] = {}
        self.since: dict[str, float] = {}
        self._host = host
        self._changed: asyncio.Future[None] | None = None

    # What is there, and what is wanted

    def update(self, snapshot: ModelSnapshot | None, verdicts: dict[str, Verdict]) -> None:
        """Take in what the folder holds now, and act on it."""
        if snapshot is not None and not snapshot.desired_known and self.snapshot is not None:
            snapshot = replace(snapshot, desired=self.snapshot.desired)
        if snapshot is not None and not snapshot.usable and self.live and self.snapshot:
            # A broken `model.toml` changes nothing but the status: what is served stays served.
            self.snapshot = replace(self.snapshot, error=snapshot.error)
        else:
            self.snapshot = snapshot
            self.verdicts = verdicts
        self.converge()

    def versions(self) -> list[str]:
        """Return the versions in the folder, oldest first."""
        return list(self.snapshot.versions) if self.snapshot else []

    def wanted(self) -> Wanted:
        """Return what should be loaded, given what is complete and has not failed."""
        if self.snapshot is None or not self.snapshot.usable or self._host.stopping:
            return Wanted((), None)
        available = [version for version in self.versions() if self._is_available(version)]
        wanted = policy.wanted_versions(
            available, self.snapshot.config, self.snapshot.desired, explicit=self._host.explicit
        )
        extra = [v for v in available if v in self.requested and v not in wanted.versions]
        return Wanted(tuple(natural_sorted([*wanted.versions, *extra])), wanted.target)

    def _is_available(self, version: str) -> bool:
        if version in self.doomed:
            return False
        return version in self.live or (self.is_complete(version) and self.failure(version) is None)

    def is_complete(self, version: str) -> bool:
        """Say whether the version's files are all there."""
        verdict = self.verdicts.get(version)
        return verdict is not None and verdict.complete

    def key(self, version: str) -> str | None:
        """Return the key of the version's files as they are now; None when they are gone."""
        found = self.snapshot.versions.get(version) if self.snapshot else None
        return found.key if found else None

    def failure(self, version: str) -> Failure | None:
        """Return why the version's present files are not served, if they were tried."""
        failure = self.failures.get(version)
        return failure if failure is not None and failure.key == self.key(version) else None

    # The state machine

    def converge(self) -> None:
        """Start what is missing, switch to what is ready, let go of what is not wanted."""
        if self.snapshot is not None:
            self.labels = policy.effective_labels(self.snapshot.config, self.snapshot.desired)
        wanted = self.wanted()
        # First what the default route waits for.
        for version in sorted(wanted.versions, key=lambda version: version != wanted.target):
            self._ensure_loading(version)
        for version, job in self.jobs.items():
            job.wanted = version in wanted.versions
            if not job.wanted and job.task is not None and self._may_cancel(job):
                job.task.cancel()
        self._choose_default(wanted)
        self._retire_unwanted(wanted)
        self._announce()

    def is_coming(self, version: str) -> bool:
        """Say whether the version is being loaded in order to be served."""
        job = self.jobs.get(version)
        return job is not None and job.wanted

    def _may_cancel(self, job: LoadJob) -> bool:
        # A thread cannot be stopped. Its job goes on waiting for it, and keeps its place among the
        # concurrent loads: superseding versions quickly must not start ever more compilers.
        return self._host.stopping or job.stage in (QUEUED, PREPARING)

    def _ensure_loading(self, version: str) -> None:
        if version in self.jobs or not self.is_complete(version) or self.failure(version):
            return
        live = self.live.get(version)
        if live is not None and (live.key == self.key(version) or not self._follows(version)):
            return
        assert self.snapshot is not None  # a complete version has a snapshot
        job = self.jobs[version] = LoadJob(self.snapshot.versions[version])
        job.task = self._host.spawn(self._load(job), f"load {self.name} {version}")

    def _follows(self, version: str) -> bool:
        """Say whether changed files of a loaded version are loaded without being asked for."""
        return not self._host.explicit or version in self.requested

    def _choose_default(self, wanted: Wanted) -> None:
        if wanted.target in self.live:
            self._switch(self.live[wanted.target])
        elif self.default is None or self.live.get(self.default.version) is not self.default:
            ready = [version for version in wanted.versions if version in self.live]
            ready = ready or natural_sorted(self.live)
            self._switch(self.live[ready[-1]] if ready else None)

    def _switch(self, new: Deployment | None) -> None:
        old = self.default
        if new is old:
            return
        self.default = new
        if new is None:
            self._host.default_routes.pop(self.name, None)
            return
        self._host.default_routes[self.name] = new
        if old is not None and old.version != new.version:
            self.previous = old.version
        before = f"version {old.version}" if old is not None else "nothing"
        logger.info("model %s now serves version %s instead of %s", self.name, new.version, before)

    def _retire_unwanted(self, wanted: Wanted) -> None:
        for version, deployment in list(self.live.items()):
            if version in wanted.versions:
                continue
            # The old version serves until the new one can.
            if deployment is self.default and wanted.versions:
                continue
            del self.live[version]
            if deployment is self.default:
                self._switch(None)
            self._retire(deployment)

    # Loading

    async def _load(self, job: LoadJob) -> None:
        version = job.snapshot.version
        started = time.perf_counter()
        outcome = "ok"
        try:
            async with self._host.load_slots:
                new = await self._prepare(job)
            if new is None:
                outcome = "cancelled"
            else:
                # Not in a slot: this may take hours, and holds up nobody else's load.
                await self._attach(new, self._host.lasting_attachments)
                self._go_live(new, time.perf_counter() - started)
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        except ServerError as error:
            outcome = error.code
            self._fail(job, error)
        except Exception as error:
            outcome = "internal"
            logger.exception("loading model %s version %s broke", self.name, version)
            self._fail(job, load_failed(self.name, version, f"{type(error).__name__}: {error}"))
        finally:
            if self.jobs.get(version) is job:
                del self.jobs[version]
            self._host.metrics.load(outcome, time.perf_counter() - started)
            self.converge()

    async def _prepare(self, job: LoadJob) -> Deployment | None:
        """Load beside what serves now; nobody sees the result yet. None: not wanted any more."""
        snapshot, version = self.snapshot, job.snapshot
        assert snapshot is not None  # converge cancels the loads of a model that is gone

        def progress(stage: str) -> None:
            job.stage = stage

        timeout_s = self._host.options.load_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                loaded = await in_background(
                    lambda: load_version(snapshot, version, self._host.options, progress),
                    abandon=LoadedVersion.close,
                    name=f"load-{self.name}-{version.version}",
                )
        except TimeoutError:
            reason = f"it took longer than load_timeout_s = {timeout_s:g} s"
            raise load_failed(self.name, version.version, reason) from None
        if not job.wanted:
            await in_background(loaded.close, name="free")
            return None
        deployment = self._deployment(version, loaded)
        job.deployment = deployment
        progress(PREPARING)
        await self._attach(deployment, self._host.brief_attachments)
        return deployment

    def _deployment(self, version: VersionSnapshot, loaded: LoadedVersion) -> Deployment:
        metadata = {
            "seconds": {stage: round(s, 4) for stage, s in loaded.seconds.items()},
            "load_s": round(sum(loaded.seconds.values()), 4),
            **metadata_of(loaded.loaded, loaded.config),
        }
        return Deployment(
            model=self.name,
            version=version.version,
            config=loaded.config,
            loaded=loaded.loaded,
            labels=loaded.labels,
            folder=version.folder,
            metadata=metadata,
            key=version.key,
        )

    async def _attach(self, new: Deployment, attachments: Sequence[Attachment]) -> None:
        old = self._replaced_by(new)
        try:
            for attachment in attachments:
                new.attachments[attachment.name] = await attachment.prepare(new, old)
        except BaseException:
            await asyncio.shield(self._host.spawn(self._free(new), f"free {self.name}"))
            raise

    def _replaced_by(self, new: Deployment) -> Deployment | None:
        """Return what a deployment will take the place of."""
        if new.version in self.live:
            return self.live[new.version]
        return self.default if self.wanted().target == new.version else None

    def _go_live(self, new: Deployment, seconds: float) -> None:
        """Switch: everything here happens in one tick of the event loop."""
        old = self._replaced_by(new)
        same_version = self.live.get(new.version)
        self.live[new.version] = new
        self.failures.pop(new.version, None)
        for attachment in self._host.attachments:
            try:
                attachment.commit(new, old)
            except Exception:  # commit promises not to fail; half a switch would be worse
                logger.exception("attachment %s failed to commit", attachment.name)
        logger.info("model %s version %s is ready after %.2f s", self.name, new.version, seconds)
        del self.jobs[new.version]
        self.converge()
        if same_version is not None:
            self._retire(same_version)

    def _fail(self, job: LoadJob, error: ServerError) -> None:
        version = job.snapshot.version
        self.failures[version] = Failure(job.snapshot.key, error)
        serving = f"version {self.default.version}" if self.default else "nothing"
        logger.error("%s; model %s goes on serving %s", error.message, self.name, serving)

    # Unloading

    def _retire(self, deployment: Deployment) -> None:
        self.draining.append(deployment)
        self._host.spawn(self._drain(deployment), f"drain {self.name} {deployment.version}")

    async def _drain(self, deployment: Deployment) -> None:
        if not await deployment.drained(self._host.drain_timeout_s):
            logger.warning(
                "model %s version %s is unloaded with %d requests still running after "
                "drain_timeout_s = %g s",
                self.name,
                deployment.version,
                deployment.leases,
                self._host.drain_timeout_s,
            )
        await self._free(deployment)
        self.draining.remove(deployment)
        if deployment.version not in self.live:
            logger.info("model %s version %s is unloaded", self.name, deployment.version)
        self._announce()

    async def _free(self, deployment: Deployment) -> None:
        for attachment in reversed(self._host.attachments):
            if attachment.name in deployment.attachments:
                value = deployment.attachments.pop(attachment.name)
                try:
                    async with asyncio.timeout(DISCARD_TIMEOUT_S):
                        await attachment.discard(value)
                except Exception:  # a run that hangs must not keep the model's memory for ever
                    logger.exception("attachment %s failed to discard", attachment.name)
        await in_background(lambda: _close(deployment), name="free")

    # Waiting and telling

    async def changed(self) -> None:
        """Wait for the next change of state."""
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    def state(self, version: str) -> State:
        """Return where a version is in its life."""
        if version in self.live:
            return State.READY
        if version in self.jobs:
            return State.LOADING
        if self.failure(version) is not None:
            return State.FAILED
        if any(deployment.version == version for deployment in self.draining):
            return State.DRAINING
        return State.UNLOADED

    def known_versions(self) -> list[str]:
        """Return all versions that are in the folder or in memory, oldest first."""
        draining = (deployment.version for deployment in self.draining)
        return natural_sorted({*self.versions(), *self.live, *self.jobs, *draining})

    def _announce(self) -> None:
        """Tell metrics, and whoever waits, what the states are now."""
        states = {version: self.state(version) for version in self.known_versions()}
        for version in self.states.keys() - states.keys():
            self._host.metrics.drop(self.name, version)
            self.since.pop(version, None)
        for version, state in states.items():
            if self.states.get(version) is state:
                continue
            self.since[version] = time.time()
            if state in (State.UNLOADED, State.FAILED):
                self._host.metrics.drop(self.name, version)
            if state is not State.UNLOADED:
                self._host.metrics.state(self.name, version, state.value)
        self.states = states
        if self.snapshot is None and not states:
            self._host.models.pop(self.name, None)
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


def _close(deployment: Deployment) -> None:
    deployment.loaded.close()
    return_memory()
