"""The repository with everything that changes it: load, unload, labels, promote, publish, delete.

Every change goes through the same state machine as a change of files. What was asked for is written
to the model's state file only once it is known to work, so that a restart or another replica never
follows a request that failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from server.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    LoadFailed,
    VersionNotFound,
)
from server.repository import changes, layout, policy, publish
from server.repository.background import in_background
from server.repository.catalog import Catalog
from server.repository.deployment import Deployment
from server.repository.incoming import Published, sweep
from server.repository.scan import state_file
from server.repository.served_model import ServedModel
from server.repository.state_file import Change, DesiredState
from server.repository.status import State

T = TypeVar("T")

SLACK_S = 10.0  # beyond the limits of the steps that are waited for


class NotWanted(Conflict):
    """A version is complete, but nothing asks for it to be loaded."""


class Repository(Catalog):
    """The model repository of a server; see `Catalog` for leases and status."""

    async def start(self) -> None:
        """Clear away what interrupted publishing left, then read and load."""
        await in_background(lambda: sweep(self.root), name="sweep")
        await super().start()

    # Loading and unloading

    async def load(self, model: str, version: str | None = None) -> None:
        """Load a model, or one version of it, and wait until it serves.

        Versions that failed are tried again. Without a version: those that the policy chooses;
        where the newest of them fails, an older one serves, and the error tells.

        Raises:
            ModelNotFound, VersionNotFound: it is not in the repository.
            LoadFailed: it cannot be served; what was loaded before still is.
        """
        served = await self._refreshed(model)
        versions = self._versions_to_load(served, version)
        with _requested(served, versions):
            for each in versions:
                served.failures.pop(each, None)
            await self.refresh()
            outcomes = [await self._outcome(served, each) for each in versions]
            done = [each for each, error in zip(versions, outcomes, strict=True) if error is None]
            if done or version is None:
                await self._change(
                    served, lambda state: self._with_loaded(served, state, version, done)
                )
        for error in filter(None, outcomes):
            await self._wait(served, lambda: not served.jobs)
            raise error

    async def _outcome(self, served: ServedModel, version: str) -> LoadFailed | None:
        try:
            await self._loaded(served, version)
        except LoadFailed as error:
            return error
        return None

    def _versions_to_load(self, served: ServedModel, version: str | None) -> list[str]:
        present = served.versions()
        if version is not None:
            _check_present(served, version)
            return [version]
        if served.snapshot is None or not present:
            raise VersionNotFound(f"model {served.name!r} has no versions", model=served.name)
        desired = served.snapshot.desired.model_copy(update={"loaded": True, "excluded": ()})
        wanted = policy.wanted_versions(present, served.snapshot.config, desired, explicit=False)
        return list(wanted.versions)

    def _with_loaded(
        self, served: ServedModel, state: DesiredState, version: str | None, done: Iterable[str]
    ) -> DesiredState:
        chosen = set(done)
        changed = state.model_copy(
            update={
                "loaded": True if self._host.explicit else None,
                "excluded": () if version is None else changes.without(state.excluded, {version}),
            }
        )
        if not self._host.explicit and served.snapshot is not None:
            # What the policy serves anyway goes on following it.
            by_policy = policy.wanted_versions(
                served.versions(), served.snapshot.config, changed, explicit=False
            )
            chosen -= set(by_policy.versions)
        versions_now = layout.natural_sorted({*state.versions, *chosen})
        return changed.model_copy(update={"versions": tuple(versions_now)})

    async def unload(self, model: str, version: str | None = None) -> None:
        """Unload a model, or one version of it, and wait until its memory is free.

        Raises:
            ModelNotFound, VersionNotFound: it is not in the repository.
        """
        served = await self._refreshed(model)
        gone = served.known_versions() if version is None else [version]
        if version is not None:
            _check_present(served, version)

        def change(state: DesiredState) -> DesiredState:
            if version is None:
                return changes.model_unloaded(state)
            return changes.version_unloaded(state, version, explicit=self._host.explicit)

        await self._change(served, change)
        await self._wait(served, lambda: not any(_in_memory(served, each) for each in gone))

    # What the default route and the labels serve

    async def promote(self, model: str, version: str) -> None:
        """Make a version the one that requests without a version get; loads it if need be.

        Promoting the newest version of the policy goes back to following the policy.

        Raises:
            ModelNotFound, VersionNotFound: it is not in the repository.
            LoadFailed: it cannot be served; nothing changes.
        """
        served = await self._refreshed(model)
        _check_present(served, version)
        with _requested(served, [version]):
            await self._bring_up(served, version)
            before = served.default.version if served.default else None

            def change(state: DesiredState) -> DesiredState:
                unpinned = changes.version_promoted(
                    state, version, follows_policy=True, before=before
                )
                if self._target(served, unpinned) == version:
                    return unpinned
                return changes.version_promoted(state, version, follows_policy=False, before=before)

            await self._change(served, change)

    def _target(self, served: ServedModel, state: DesiredState) -> str | None:
        if served.snapshot is None:
            return None
        return policy.wanted_versions(
            served.versions(), served.snapshot.config, state, explicit=self._host.explicit
        ).target

    async def rollback(self, model: str) -> str:
        """Go back to the version that served before, and return its name.

        Raises:
            Conflict: there is none to go back to.
            LoadFailed: it cannot be served any more; nothing changes.
        """
        served = await self._refreshed(model)
        version = _version_before(served)
        if version is None:
            raise Conflict(f"model {model!r} has no earlier version to go back to", model=model)
        await self.promote(model, version)
        return version

    async def set_label(self, model: str, label: str, version: str | None) -> None:
        """Let a label point to a version, which is loaded first, or remove it (None).

        Raises:
            ModelNotFound, VersionNotFound: there is no such model, version or label.
            LoadFailed: the version cannot be served; nothing changes.
        """
        _check_name(label, "label")
        served = await self._refreshed(model)
        if version is None:
            if label not in served.labels:
                raise VersionNotFound(f"model {model!r} has no label {label!r}", model=model)
            await self._change(served, lambda state: changes.labelled(state, label, None))
            return
        _check_present(served, version)
        with _requested(served, [version]):
            await self._bring_up(served, version)
            await self._change(served, lambda state: changes.labelled(state, label, version))

    # Files

    async def publish(
        self, model: str, version: str | None, source: Path | AsyncIterator[bytes]
    ) -> Published:
        """Add a version from a file, a folder, or a stream of a `.onnx`, tar or zip file.

        Without a version's name it gets the next number. It becomes visible at once and whole,
        and is then loaded as any other; `wait_loaded` waits for that.

        Raises:
            Conflict: the version exists, or the repository is read-only.
            InvalidInput: a name is not possible, or the content is not a version.
            PayloadTooLarge: it is longer than `max_upload_bytes`.
        """
        _check_name(model, "model")
        if version is not None:
            _check_name(version, "version")
        limit = self.settings.max_upload_bytes
        if isinstance(source, Path):
            path = source
            published = await in_background(
                lambda: publish.publish_path(self.root, model, version, path, limit),
                name="publish",
            )
        else:
            published = await publish.publish_stream(self.root, model, version, source, limit)
        await self.refresh()
        return published

    async def wait_loaded(self, model: str, version: str) -> Deployment | None:
        """Wait until a version that is being loaded serves; None if it is not wanted now.

        That is so when the policy prefers another version, or loads only come on request.

        Raises:
            LoadFailed: it cannot be served.
        """
        try:
            return await self._loaded(self.model(model), version)
        except NotWanted:
            return None

    async def delete(self, model: str, version: str) -> None:
        """Remove a version's files; it is unloaded first, after another has taken its place.

        Raises:
            ModelNotFound, VersionNotFound: it is not in the repository.
            Conflict: a label points to it, or its files cannot be told from the model's.
        """
        served = await self._refreshed(model)
        _check_present(served, version)
        labels = policy.labels_of(version, served.labels)
        if labels:
            raise Conflict(
                f"version {version!r} of model {model!r} has the label {', '.join(labels)}; "
                "move or remove it first",
                labels=list(labels),
            )
        assert served.snapshot is not None  # a version is present
        if served.snapshot.versions[version].folder != served.snapshot.folder / version:
            raise Conflict(
                f"version {version!r} is the files directly in {model}/; remove them by hand"
            )
        await in_background(lambda: publish.check_writable(self.root, model), name="delete")
        served.doomed.add(version)
        try:
            served.converge()
            await self._wait(served, lambda: not _in_memory(served, version))
            await in_background(lambda: publish.remove(self.root, model, version), name="delete")
            await self._forget(served, version)
        finally:
            served.doomed.discard(version)
            await self.refresh()

    async def _forget(self, served: ServedModel, version: str) -> None:
        if served.previous == version:
            served.previous = None
        await self._change(served, lambda state: changes.version_forgotten(state, version))

    # Common steps

    async def _refreshed(self, model: str) -> ServedModel:
        await self.refresh()
        return self.model(model)

    async def _bring_up(self, served: ServedModel, version: str) -> Deployment:
        if served.live.get(version) is None:
            served.failures.pop(version, None)
            served.converge()
        return await self._loaded(served, version)

    async def _loaded(self, served: ServedModel, version: str) -> Deployment:
        """Wait until the version's present files are loaded."""

        def arrived() -> Deployment | None:
            failure = served.failure(version)
            if failure is not None:
                raise failure.again()
            _check_present(served, version)
            live = served.live.get(version)
            if live is not None and live.key == served.key(version):
                return live
            if served.is_complete(version) and not served.is_coming(version):
                raise NotWanted(
                    f"model {served.name!r} version {version!r} is not loaded: meanwhile it was "
                    "unloaded or a newer version took its place",
                    model=served.name,
                )
            verdict = served.verdicts.get(version)
            if verdict is not None and not verdict.complete and verdict.wait_s is None:
                raise Conflict(
                    f"model {served.name!r} version {version!r} is {verdict.reason}",
                    model=served.name,
                )
            return None

        return await self._wait(served, arrived)

    async def _wait(self, served: ServedModel, arrived: Callable[[], T | None]) -> T:
        """Wait until `arrived()` is true, looking after every change of the model's state."""
        settings = self.settings
        limit_s = settings.settle_s + 2 * settings.load_timeout_s + settings.drain_timeout_s
        progress = None
        # Attachments may take any time over a load, as long as they come on with it.
        while progress != (progress := [job.progress for job in served.jobs.values()]):
            with suppress(TimeoutError):
                async with asyncio.timeout(limit_s + SLACK_S):
                    while not (result := arrived()):
                        await served.changed()
                    return result
            if not progress:
                break
        raise DeadlineExceeded(
            f"model {served.name!r} did not get there within {limit_s:g} s; see its status"
        )

    async def _change(self, served: ServedModel, change: Change) -> None:
        state = state_file(self.root, self.settings.state_dir, served.name)
        await in_background(lambda: state.change(change), name="state")
        await self.refresh()


def _check_name(name: str, what: str) -> None:
    try:
        layout.check_name(name, what)
    except layout.NameInvalid as error:
        raise InvalidInput(str(error), field=what) from error


def _check_present(served: ServedModel, version: str) -> None:
    if version not in served.versions():
        known = ", ".join(served.versions()[-20:]) or "none"
        raise VersionNotFound(
            f"model {served.name!r} has no version {version[:128]!r}; it has: {known}",
            model=served.name,
        )


@contextmanager
def _requested(served: ServedModel, versions: Iterable[str]) -> Iterator[None]:
    """Keep versions wanted while a caller waits for them."""
    added = [version for version in versions if version not in served.requested]
    served.requested.update(added)
    try:
        yield
    finally:
        served.requested.difference_update(added)
        served.converge()


def _in_memory(served: ServedModel, version: str) -> bool:
    return served.state(version) in (State.READY, State.LOADING, State.DRAINING)


def _version_before(served: ServedModel) -> str | None:
    """Return what served before; without a memory of it, the next older version."""
    desired = served.snapshot.desired if served.snapshot else DesiredState()
    now = served.default.version if served.default else None
    present = served.versions()
    for remembered in (served.previous, desired.previous):
        if remembered in present and remembered != now:
            return remembered
    older = present[: present.index(now)] if now in present else []
    return older[-1] if older else None
