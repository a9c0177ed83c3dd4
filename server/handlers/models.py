"""What there is: metadata, readiness, configuration, statistics, status."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from server.errors import ModelNotReady, ServerError, VersionNotFound
from server.metrics import Metrics
from server.model_config import LatestPolicy, SpecificPolicy
from server.repository.deployment import Deployment
from server.repository.registry import Repository
from server.repository.status import IndexEntry, ModelStatus, State
from server.serving import Serving, serving_of


class ModelHandler:
    """Answers questions about models; changes nothing."""

    def __init__(self, repository: Repository, metrics: Metrics) -> None:
        """Keep where the answers come from."""
        self._repository = repository
        self._metrics = metrics

    def status(self, model: str | None = None) -> list[ModelStatus]:
        """Return the state of one model or of all.

        Raises:
            ModelNotFound: there is no such model.
        """
        return [self._with_task(status) for status in self._repository.status(model)]

    def _with_task(self, status: ModelStatus) -> ModelStatus:
        """Say the task of a model whose configuration leaves it to be inferred."""
        if status.task is not None or status.default is None:
            return status
        try:
            with self._repository.lease(status.name) as lease:
                return replace(status, task=serving_of(lease.deployment).task.name)
        except ServerError:  # it was unloaded since
            return status

    def index(self, *, ready_only: bool = False) -> list[IndexEntry]:
        """Return one line per version, as the v2 repository index."""
        entries = self._repository.index()
        return [entry for entry in entries if not ready_only or entry.state is State.READY]

    def ready(self, model: str, version: str | None = None, label: str | None = None) -> bool:
        """Say whether the model (or this version of it) can answer now.

        Raises:
            ModelNotFound: there is no such model.
            VersionNotFound: it has no such version.
        """
        try:
            self._repository.lease(model, version, label).release()
        except ModelNotReady:
            return False
        return True

    def metadata(self, model: str, version: str | None = None) -> dict[str, Any]:
        """Return the v2 metadata of a model."""
        with self._repository.lease(model, version) as lease:
            deployment = lease.deployment
            serving = serving_of(deployment)
            [status] = self.status(model)
            return {
                "name": deployment.model,
                "versions": [item.version for item in status.versions],
                "platform": "onnx_onnxv1",
                "inputs": list(serving.inputs),
                "outputs": list(serving.outputs),
                "task": serving.task.name,
                "version": deployment.version,
            }

    def configuration(self, model: str, version: str | None = None) -> dict[str, Any]:
        """Return a model's configuration in Triton's words."""
        with self._repository.lease(model, version) as lease:
            return _triton_config(lease.deployment)

    def statistics(
        self, model: str | None = None, version: str | None = None
    ) -> list[dict[str, Any]]:
        """Return Triton's `model_stats` of every version, of one model's, or of one.

        Raises:
            ModelNotFound: there is no such model.
            VersionNotFound: it has no such version loaded.
        """
        if model is not None:
            [status] = self.status(model)
            known = {item.version for item in status.versions}
            if version is not None and version not in known:
                raise VersionNotFound(
                    f"model {model!r} has no version {version[:200]!r}", model=model
                )
        found = self._metrics.statistics()
        return [
            item
            for item in found
            if model in (None, item["name"]) and version in (None, item["version"])
        ]


def status_dict(status: ModelStatus) -> dict[str, Any]:
    """Return a model's status as plain data."""
    return asdict(status)


def _triton_config(deployment: Deployment) -> dict[str, Any]:
    serving = serving_of(deployment)
    config = deployment.config
    batching = config.batching
    batched = isinstance(serving, Serving) and batching.enabled
    batched = batched and deployment.engine_model.batch is not None
    policy = config.version_policy
    described: dict[str, Any] = {"all": {}}
    if isinstance(policy, LatestPolicy):
        described = {"latest": {"num_versions": policy.latest}}
    elif isinstance(policy, SpecificPolicy):
        described = {"specific": {"versions": list(policy.specific)}}
    skip = 1 if batched else 0  # Triton's dims leave out the batch
    return {
        "name": deployment.model,
        "platform": "onnx_onnxv1",
        "backend": "millrace",
        "version_policy": described,
        "max_batch_size": batching.max_batch_size if batched else 0,
        "input": [(spec, skip) for spec in serving.inputs],
        "output": [(spec, skip) for spec in serving.outputs],
        "dynamic_batching": {
            "max_queue_delay_microseconds": batching.max_queue_delay_us,
            "default_queue_policy": {"max_queue_size": batching.max_queue_size},
        },
        "instance_group": [{"name": deployment.model, "kind": "KIND_CPU", "count": batching.lanes}],
        "parameters": {"task": {"string_value": serving.task.name}},
    }
