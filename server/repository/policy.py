"""Which versions are loaded, which one the default route serves, and what labels mean. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from server.model_config import LatestPolicy, ModelConfig, SpecificPolicy
from server.repository.layout import natural_sorted
from server.repository.state_file import DesiredState


@dataclass(frozen=True)
class Wanted:
    """What a model should come to."""

    versions: tuple[str, ...]  # to be loaded, oldest first
    target: str | None  # what the default route should serve


def effective_labels(config: ModelConfig, desired: DesiredState) -> dict[str, str]:
    """Return the labels of `model.toml`, overridden by those set while serving."""
    merged = {**config.version_labels, **desired.labels}
    return {label: version for label, version in merged.items() if version is not None}


def wanted_versions(
    available: Sequence[str], config: ModelConfig, desired: DesiredState, *, explicit: bool
) -> Wanted:
    """Choose among the versions that can be loaded.

    Args:
        available: versions that are complete and have not failed, oldest first.
        config: the model's configuration.
        desired: what was asked for while serving.
        explicit: load nothing but what was asked for.
    """
    loaded = desired.loaded if desired.loaded is not None else not explicit
    present = [version for version in available if version not in desired.excluded]
    if not loaded or not present:
        return Wanted((), None)
    by_policy = [] if explicit else policy_versions(present, config)
    asked = {*desired.versions, *effective_labels(config, desired).values(), desired.pinned}
    chosen = natural_sorted({*by_policy, *(version for version in present if version in asked)})
    return Wanted(tuple(chosen), _target(chosen, by_policy, desired))


def _target(chosen: Sequence[str], by_policy: Sequence[str], desired: DesiredState) -> str | None:
    if desired.pinned in chosen:
        return desired.pinned
    on_request = [version for version in chosen if version in desired.versions]
    # A version that is loaded beside the policy's never takes over the default route by itself.
    return next((group[-1] for group in (by_policy, on_request, chosen) if group), None)


def policy_versions(present: Sequence[str], config: ModelConfig) -> list[str]:
    """Return those of the versions that `version_policy` serves, oldest first."""
    policy = config.version_policy
    if isinstance(policy, LatestPolicy):
        return list(present[-policy.latest :])
    if isinstance(policy, SpecificPolicy):
        return [version for version in present if version in policy.specific]
    return list(present)


def labels_of(version: str, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Return the labels that point to a version, sorted."""
    return tuple(sorted(label for label, target in labels.items() if target == version))
