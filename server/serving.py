"""What a deployment needs to answer requests: its task and its batcher, moved by the same switch.

The repository does not know this attachment; it calls `prepare` beside the old deployment,
`commit` at the switch and `discard` after the old one has drained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from server.batching.batcher import Batcher
from server.errors import LoadFailed
from server.execution import WorkerPool
from server.metrics import Metrics, ModelMetrics
from server.repository.deployment import Deployment
from server.settings import Settings
from server.tasks import ImageLimits, Task, build_task, task_kinds
from server.tensors import TensorInfo

NAME = "serving"
TENSOR = "tensor"  # the engine's word for the kind of a value that is one


@dataclass(frozen=True, slots=True)
class Serving:
    """A deployment's task, batcher and metrics."""

    tasks: Mapping[str, Task]  # by name; the model's own one first
    task: Task  # the model's own one
    batcher: Batcher
    metrics: ModelMetrics
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


def serving_of(deployment: Deployment) -> Serving:
    """Return the serving part of a deployment."""
    return cast(Serving, deployment.attachments[NAME])


class ServingAttachment:
    """Builds a `Serving` for every deployment, and closes it when the deployment has drained."""

    name = NAME

    def __init__(self, pool: WorkerPool, metrics: Metrics, settings: Settings) -> None:
        """Remember what all deployments share."""
        self._pool = pool
        self._metrics = metrics
        self._limits = ImageLimits(settings.max_body_bytes, settings.max_image_pixels)

    async def prepare(self, new: Deployment, old: Deployment | None) -> Serving:
        """Build the tasks and the batcher; raises if the config does not fit the model."""
        model = new.engine_model
        inputs, outputs = _inputs(new), _outputs(new)
        tasks = {
            kind: build_task(
                new.config,
                inputs,
                outputs,
                model.kept,
                new.labels,
                kind=kind,
                batch=model.batch,
                limits=self._limits,
            )
            for kind in task_kinds(new.config, new.labels)
        }
        metrics = self._metrics.model(new.model, new.version)
        batcher = Batcher(
            model.run,
            inputs=inputs,
            batch=model.batch,
            config=new.config.batching,
            pool=self._pool,
            metrics=metrics,
            outputs=[spec.name for spec in model.outputs],
        )
        own = next(iter(tasks.values()))
        return Serving(tasks, own, batcher, metrics, inputs, outputs)

    def commit(self, new: Deployment, old: Deployment | None) -> None:
        """Nothing to do: the serving part is reached through its deployment."""

    async def discard(self, value: object) -> None:
        """Finish what is queued and close the batcher."""
        await cast(Serving, value).batcher.close()


def _inputs(new: Deployment) -> tuple[TensorInfo, ...]:
    infos = []
    for spec in new.engine_model.inputs:
        if spec.kind != TENSOR:
            raise LoadFailed(
                f"input {spec.name!r} of model {new.model!r} is a {spec.kind}; requests carry "
                "tensors only: export the model with tensors for inputs",
                model=new.model,
                reason=f"input {spec.name!r} is a {spec.kind}",
            )
        if spec.shape is None:
            raise LoadFailed(
                f"input {spec.name!r} of model {new.model!r} declares no rank, so requests could "
                "not be checked; export the model with the shapes of its inputs",
                model=new.model,
                reason=f"input {spec.name!r} declares no rank",
            )
        infos.append(TensorInfo(spec.name, spec.dtype, spec.shape))
    return tuple(infos)


def _outputs(new: Deployment) -> tuple[TensorInfo, ...]:
    """Return the outputs that are tensors; `/predict` alone gives the others, as plain JSON."""
    # An output whose rank is not known is described as one dim of any size, as Triton does.
    return tuple(
        TensorInfo(spec.name, spec.dtype, ("?",) if spec.shape is None else spec.shape)
        for spec in new.engine_model.outputs
        if spec.kind == TENSOR
    )
