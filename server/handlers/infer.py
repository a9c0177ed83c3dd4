"""Tensors in, tensors out: what the v2 and v1 doors share. No task, no preprocessing."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from server.batching import Work
from server.errors import InvalidInput, ServerError
from server.execution import WorkerPool
from server.handlers.call import Call
from server.handlers.flights import Flights
from server.handlers.translate import begin_run, translate_all
from server.metrics import Phase
from server.repository.deployment import Deployment
from server.repository.registry import Repository
from server.serving import TENSOR, TEXT_INPUT, TEXT_OUTPUT, Serving, TextServing, serving_of
from server.settings import Settings
from server.tensors import TensorInfo, check_feeds

Arrays = dict[str, np.ndarray[Any, Any]]


@dataclass(slots=True)
class InferRequest:
    """The feeds, or how to make them once the model's inputs are known."""

    feeds: Callable[[tuple[TensorInfo, ...]], Arrays]
    model: str
    version: str | None = None
    label: str | None = None
    fetches: tuple[str, ...] | None = None  # None: the graph's outputs
    large: bool = False  # making the feeds would hold the event loop for too long


@dataclass(slots=True)
class InferReply:
    """The outputs, in the order asked for."""

    model: str
    version: str
    outputs: Arrays
    labels: tuple[str, ...] | None = None
    batched: frozenset[str] = frozenset()  # outputs whose first axis is the batch


class BatchAxesLike(Protocol):
    """Which inputs have the batch as their first axis."""

    @property
    def inputs(self) -> frozenset[str]:
        """Return their names."""


class InferHandler:
    """Answers `InferRequest`s."""

    def __init__(
        self, repository: Repository, pool: WorkerPool, flights: Flights, settings: Settings
    ) -> None:
        """Keep what every request uses."""
        self._repository = repository
        self._pool = pool
        self._flights = flights
        self._settings = settings

    async def infer(self, request: InferRequest, call: Call, parse_s: float = 0.0) -> InferReply:
        """Run the model once for this request, in a batch with others."""
        with self._repository.lease(request.model, request.version, request.label) as lease:
            deployment = lease.deployment
            serving = serving_of(deployment)
            call.of(deployment.model, deployment.version, serving.metrics)
            if isinstance(serving, TextServing):
                return await self._translate(request, call, parse_s, deployment, serving)
            model = deployment.engine_model
            fetches = _fetches(request.fetches, serving, deployment)
            feeds = await self._feeds(request, serving.inputs, call, parse_s)
            due = call.due(deployment.config.batching.timeout_ms, self._settings.request_timeout_s)
            rows = _rows(feeds, model.batch)
            work = Work(feeds, rows, fetches, int(due * 1e6), call.priority)
            outcome = await self._flights.wait(serving.batcher.submit(work), call, due)
            call.ran(outcome)
            outputs = {name: outcome.outputs[name] for name in fetches}
            return InferReply(
                deployment.model,
                deployment.version,
                outputs,
                deployment.labels,
                model.batch.outputs if model.batch is not None else frozenset(),
            )

    async def _feeds(
        self, request: InferRequest, inputs: tuple[TensorInfo, ...], call: Call, parse_s: float
    ) -> Arrays:
        began = time.monotonic()
        if request.large:
            feeds = await self._pool.run(request.feeds, inputs)
        else:
            feeds = request.feeds(inputs)
        check_feeds(inputs, feeds)
        call.observe(Phase.PARSE, parse_s + time.monotonic() - began)
        return feeds

    async def _translate(
        self,
        request: InferRequest,
        call: Call,
        parse_s: float,
        deployment: Deployment,
        serving: TextServing,
    ) -> InferReply:
        """Translate the texts of a tensor of strings; one that fails fails them all."""
        if request.fetches not in (None, (TEXT_OUTPUT.name,)):
            raise InvalidInput(
                f"the output of model {deployment.model!r} is {TEXT_OUTPUT.name!r}",
                field="outputs",
                expected=[TEXT_OUTPUT.name],
                got=[name[:200] for name in request.fetches or ()],
            )
        feeds = await self._feeds(request, serving.inputs, call, parse_s)
        texts = [_as_text(value) for value in feeds[TEXT_INPUT.name].tolist()]
        if not 1 <= len(texts) <= self._settings.max_items:
            raise InvalidInput(
                f"send 1 to {self._settings.max_items} texts at a time, got {len(texts)}",
                field=TEXT_INPUT.name,
                expected=f"1..{self._settings.max_items} texts",
                got=len(texts),
            )
        run = begin_run(deployment, serving, {}, call, self._settings)
        outcomes = await translate_all(run, texts, self._flights)
        translations = np.empty(len(texts), dtype=object)
        for row, outcome in enumerate(outcomes):
            if isinstance(outcome, ServerError):
                raise outcome
            translations[row] = outcome.text
        outputs: Arrays = {TEXT_OUTPUT.name: translations}
        batched = frozenset({TEXT_OUTPUT.name})
        return InferReply(deployment.model, deployment.version, outputs, None, batched)


def _as_text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _fetches(
    wanted: tuple[str, ...] | None, serving: Serving, deployment: Deployment
) -> tuple[str, ...]:
    if wanted is None:
        return tuple(spec.name for spec in serving.outputs)
    model = deployment.engine_model
    # Sequences and maps are outputs that a tensor protocol cannot carry.
    kept = set(model.kept) - {spec.name for spec in model.outputs if spec.kind != TENSOR}
    unknown = [name[:200] for name in wanted if name not in kept]
    if unknown or len(set(wanted)) != len(wanted):
        what = f"unknown {', '.join(map(repr, unknown))}" if unknown else "one is named twice"
        known = [spec.name for spec in serving.outputs]
        raise InvalidInput(
            f"outputs of model {deployment.model!r} are {', '.join(map(repr, known))}: {what}",
            field="outputs",
            expected=known,
            got=[name[:200] for name in wanted],
        )
    return wanted


def _rows(feeds: Mapping[str, np.ndarray[Any, Any]], batch: BatchAxesLike | None) -> int:
    """Return how many rows of a batch the request is; 1 for a model that cannot batch."""
    if batch is None:
        return 1
    counts = {name: feeds[name].shape[0] for name in sorted(batch.inputs)}
    rows = int(next(iter(counts.values())))
    if rows == 0 or any(count != rows for count in counts.values()):
        raise InvalidInput(
            f"the inputs must have the same number of rows, 1 or more, got {counts}",
            field="inputs",
            expected="equal first dims of 1 or more",
            got=counts,
        )
    return rows
