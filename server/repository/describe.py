"""Build the status of a model from its state machine. Reads, changes nothing."""

from __future__ import annotations

from server.repository import policy
from server.repository.loader import memory_of
from server.repository.served_model import ServedModel
from server.repository.status import IndexEntry, ModelStatus, State, VersionStatus


def model_status(model: ServedModel) -> ModelStatus:
    """Return everything that is known of a model."""
    snapshot = model.snapshot
    config = snapshot.config if snapshot else None
    desired = snapshot.desired if snapshot else None
    served = model.default.config if model.default else config
    return ModelStatus(
        name=model.name,
        versions=tuple(version_status(model, version) for version in model.known_versions()),
        default=model.default.version if model.default else None,
        previous=model.previous or (desired.previous if desired else None),
        pinned=desired.pinned if desired else None,
        labels=dict(model.labels),
        task=served.task if served else None,
        description=config.description if config else "",
        version_policy=config.model_dump(mode="json")["version_policy"] if config else None,
        generation=desired.generation if desired else 0,
        error=snapshot.error if snapshot else None,
    )


def version_status(model: ServedModel, version: str) -> VersionStatus:
    """Return everything that is known of a version."""
    live = model.live.get(version)
    draining = [d for d in model.draining if d.version == version]
    job = model.jobs.get(version)
    found = model.snapshot.versions.get(version) if model.snapshot else None
    return VersionStatus(
        version=version,
        state=model.state(version),
        reason=_reason(model, version),
        since=model.since.get(version, 0.0),
        default=live is not None and live is model.default,
        labels=policy.labels_of(version, model.labels),
        progress=job.progress if job else None,
        bytes=found.bytes if found else 0,
        leases=sum(d.leases for d in [*draining, *([live] if live else [])]),
        metadata={**live.metadata, "memory": memory_of(live.loaded)} if live else {},
    )


def _reason(model: ServedModel, version: str) -> str | None:
    failure = model.failure(version)
    if failure is not None:
        return failure.reason
    verdict = model.verdicts.get(version)
    if verdict is not None and not verdict.complete:
        return verdict.reason
    if model.state(version) is not State.UNLOADED:
        return None
    if model.snapshot is not None and not model.snapshot.usable:
        return model.snapshot.error
    if model.snapshot is not None and version in model.snapshot.desired.excluded:
        return "unloaded on request"
    return "not loaded: neither its version policy, a label nor a request asks for it"


def index_entries(model: ServedModel) -> list[IndexEntry]:
    """Return the model's lines of the index."""
    return [
        IndexEntry(model.name, version, model.state(version), _reason(model, version))
        for version in model.known_versions()
    ]
