"""Changes of the desired state. Pure: each takes a state and returns the next."""

from __future__ import annotations

from collections.abc import Container, Iterable

from server.repository.layout import natural_sorted
from server.repository.state_file import DesiredState


def model_unloaded(state: DesiredState) -> DesiredState:
    """Nothing of the model is to be loaded."""
    return state.model_copy(update={"loaded": False, "versions": ()})


def version_unloaded(state: DesiredState, version: str, *, explicit: bool) -> DesiredState:
    """The version is not to be loaded, whatever the policy says."""
    excluded = state.excluded if explicit else natural_sorted({*state.excluded, version})
    return state.model_copy(
        update={
            "excluded": tuple(excluded),
            "versions": without(state.versions, {version}),
            "pinned": None if state.pinned == version else state.pinned,
        }
    )


def version_promoted(
    state: DesiredState, version: str, *, follows_policy: bool, before: str | None
) -> DesiredState:
    """The default route serves the version; `before` is what it served until now."""
    moved = before is not None and before != version
    return state.model_copy(
        update={
            "pinned": None if follows_policy else version,
            "previous": before if moved else state.previous,
            "excluded": without(state.excluded, {version}),
        }
    )


def labelled(state: DesiredState, label: str, version: str | None) -> DesiredState:
    """The label points to the version, or to none, whatever `model.toml` says."""
    return state.model_copy(
        update={
            "labels": {**state.labels, label: version},
            "excluded": without(state.excluded, {version}),
        }
    )


def version_forgotten(state: DesiredState, version: str) -> DesiredState:
    """The version is gone for good."""
    return state.model_copy(
        update={
            "versions": without(state.versions, {version}),
            "excluded": without(state.excluded, {version}),
            "pinned": None if state.pinned == version else state.pinned,
            "previous": None if state.previous == version else state.previous,
        }
    )


def without(versions: Iterable[str], gone: Container[str | None]) -> tuple[str, ...]:
    """Return the versions that are not gone."""
    return tuple(version for version in versions if version not in gone)
