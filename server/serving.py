"""What a deployment needs to answer requests, moved by the same switch: its task, and who runs it.

Models of tensors have a batcher; models that turn text into text have a translator.

The repository does not know this attachment; it calls `prepare` beside the old deployment,
`commit` at the switch and `discard` after the old one has drained.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import cast

from server.batching.batcher import Batcher
from server.errors import LoadFailed, RequestRejected
from server.execution import WorkerPool
from server.metrics import Metrics, ModelMetrics
from server.repository.background import in_background
from server.repository.deployment import Attachment, Deployment
from server.repository.golden import GoldenMismatch
from server.repository.loader import load_failed
from server.repository.text_golden import TextSample, read_text_samples
from server.repository.text_model import TextModel
from server.settings import Settings
from server.tasks import ImageLimits, Task, TranslationTask, build_task, task_kinds
from server.tensors import TensorInfo
from server.text import LanguageDetector
from server.translation.attachment import TranslationAttachment, loop_of
from server.translation.documents import Order, Translator

NAME = "serving"
TENSOR = "tensor"  # the engine's word for the kind of a value that is one
# A translation model as the tensor doors see it: texts in, texts out.
TEXT_INPUT = TensorInfo("text", "str", ("N",))
TEXT_OUTPUT = TensorInfo("translation", "str", ("N",))


@dataclass(frozen=True, slots=True)
class Serving:
    """A deployment's task, batcher and metrics."""

    tasks: Mapping[str, Task]  # by name; the model's own one first
    task: Task  # the model's own one
    batcher: Batcher
    metrics: ModelMetrics
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


@dataclass(frozen=True, slots=True)
class TextServing:
    """The same of a deployment that turns text into text."""

    task: TranslationTask
    translator: Translator
    metrics: ModelMetrics
    inputs: tuple[TensorInfo, ...] = (TEXT_INPUT,)
    outputs: tuple[TensorInfo, ...] = (TEXT_OUTPUT,)

    @property
    def tasks(self) -> Mapping[str, TranslationTask]:
        """The one task there is."""
        return {self.task.name: self.task}


def serving_of(deployment: Deployment) -> Serving | TextServing:
    """Return the serving part of a deployment."""
    return cast(Serving | TextServing, deployment.attachments[NAME])


class ServingAttachment:
    """Builds a `Serving` for every deployment, and closes it when the deployment has drained."""

    name = NAME

    def __init__(
        self,
        pool: WorkerPool,
        metrics: Metrics,
        settings: Settings,
        detector: LanguageDetector,
    ) -> None:
        """Remember what all deployments share."""
        self._pool = pool
        self._metrics = metrics
        self._limits = ImageLimits(settings.max_body_bytes, settings.max_image_pixels)
        self._golden_s = settings.load_timeout_s
        self._detector = detector

    async def prepare(self, new: Deployment, old: Deployment | None) -> Serving | TextServing:
        """Build the tasks and who runs them; raises if the config does not fit the model."""
        if new.text_model is not None:
            return await self._prepare_text(new, new.text_model)
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
        if isinstance(value, Serving):
            await value.batcher.close()

    async def _prepare_text(self, new: Deployment, model: TextModel) -> TextServing:
        own = new.config.translation
        sentences = loop_of(new)
        assert sentences is not None  # a text model's decode loop is prepared before this
        sizes = sentences.sizes  # what the model has positions for may be less than was asked
        new.metadata["generation"] = asdict(model.defaults)
        task = TranslationTask(model.defaults, rows=sizes.rows, target_tokens=sizes.target_tokens)
        translator = Translator(model, sentences, own, self._pool, self._detector)
        try:
            samples = await in_background(lambda: read_text_samples(new.folder), name="samples")
            async with asyncio.timeout(self._golden_s):
                await _check_texts(samples, translator, task, new.config.golden.similarity)
        except GoldenMismatch as error:
            raise load_failed(new.model, new.version, str(error)) from error
        except TimeoutError:
            reason = f"its samples took longer than load_timeout_s = {self._golden_s:g} s"
            raise load_failed(new.model, new.version, reason) from None
        return TextServing(task, translator, self._metrics.model(new.model, new.version))


def attachments(
    pool: WorkerPool,
    metrics: Metrics,
    settings: Settings,
    detector: LanguageDetector | None = None,
) -> tuple[Attachment, ...]:
    """Return what every deployment is served with, in the order in which it is prepared.

    A language detector that is used takes much memory: one is enough for a process.
    """
    detector = detector or LanguageDetector()
    serving = ServingAttachment(pool, metrics, settings, detector)
    return TranslationAttachment(metrics), serving


async def _check_texts(
    samples: Sequence[TextSample],
    translator: Translator,
    task: TranslationTask,
    similarity: float,
) -> None:
    """Translate the samples as requests do, all at once, and compare."""
    try:
        options = [task.options(task.parameters(sample.parameters)) for sample in samples]
        translations = await asyncio.gather(
            *(
                translator.translate(sample.text, each, Order())
                for sample, each in zip(samples, options, strict=True)
            )
        )
    except RequestRejected as error:
        raise GoldenMismatch(f"a sample cannot be translated: {error.message}") from error
    for sample, translation in zip(samples, translations, strict=True):
        sample.check(translation.text, translation.token_ids(), similarity)


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
