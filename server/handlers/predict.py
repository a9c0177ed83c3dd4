"""The simple door: items in, one result per item, in order; a failed item fails alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.batching import Work
from server.errors import InvalidInput, ServerError
from server.execution import WorkerPool
from server.handlers.call import Call
from server.handlers.failures import as_server_error
from server.handlers.flights import Flights
from server.handlers.translate import TextRun, begin_run, other_task, translate_all
from server.metrics import Phase
from server.repository.registry import Repository
from server.serving import Serving, TextServing, serving_of
from server.settings import Settings
from server.tasks import Item, Parameters, Prepared, Task, TextItem

_PHASES = {"decode": Phase.DECODE, "preprocess": Phase.PREPROCESS}


@dataclass(slots=True)
class PredictRequest:
    """What to predict, with which model; an item that could not be read is its error."""

    items: list[Item | ServerError]
    model: str | None = None
    version: str | None = None
    label: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    task: str | None = None  # the only task that may answer; None: any
    large: bool = False  # its items are too large to be turned into arrays on the event loop


@dataclass(slots=True)
class PredictReply:
    """The answer: one result per item; an item that failed is its error."""

    model: str
    version: str
    task: str
    results: list[dict[str, Any] | ServerError]


class PredictHandler:
    """Answers `PredictRequest`s."""

    def __init__(
        self, repository: Repository, pool: WorkerPool, flights: Flights, settings: Settings
    ) -> None:
        """Keep what every request uses."""
        self._repository = repository
        self._pool = pool
        self._flights = flights
        self._settings = settings

    async def predict(
        self, request: PredictRequest, call: Call, parse_s: float = 0.0
    ) -> PredictReply:
        """Answer every item; raises only what concerns the whole request."""
        self._check_count(request)
        with self._repository.lease(request.model, request.version, request.label) as lease:
            deployment = lease.deployment
            serving = serving_of(deployment)
            call.of(deployment.model, deployment.version, serving.metrics)
            call.observe(Phase.PARSE, parse_s)
            if request.task is not None and request.task not in serving.tasks:
                raise other_task(request.task, serving, deployment)
            if isinstance(serving, TextServing):
                text_run = begin_run(deployment, serving, request.parameters, call, self._settings)
                results = await self._translate(text_run, request.items)
                return PredictReply(
                    deployment.model, deployment.version, serving.task.name, results
                )
            task = serving.task if request.task is None else serving.tasks[request.task]
            parameters = task.parameters(request.parameters)
            due = call.due(deployment.config.batching.timeout_ms, self._settings.request_timeout_s)
            run = _Run(serving, task, parameters, call, due, request.large, self._pool)
            results = await self._run_all(run, request.items)
            return PredictReply(deployment.model, deployment.version, task.name, results)

    async def _run_all(
        self, run: _Run, items: list[Item | ServerError]
    ) -> list[dict[str, Any] | ServerError]:
        if len(items) == 1 and not isinstance(items[0], ServerError) and not run.is_heavy(items[0]):
            return [await run.alone(items[0], self._flights)]
        work = asyncio.gather(*[run.item(item) for item in items])
        return await self._flights.wait(work, run.call, run.due)

    async def _translate(
        self, run: TextRun, items: list[Item | ServerError]
    ) -> list[dict[str, Any] | ServerError]:
        texts = [item.text for item in items if isinstance(item, TextItem)]
        done = iter(await translate_all(run, texts, self._flights))
        results: list[dict[str, Any] | ServerError] = []
        for item in items:
            outcome = next(done) if isinstance(item, TextItem) else _no_text(item)
            if isinstance(outcome, ServerError):
                results.append(outcome)
            else:
                results.append(outcome.describe(run.options))
        return results

    def _check_count(self, request: PredictRequest) -> None:
        most = self._settings.max_items
        if not 1 <= len(request.items) <= most:
            raise InvalidInput(
                f"`inputs` must hold 1 to {most} items, got {len(request.items)}",
                field="inputs",
                expected=f"1..{most} items",
                got=len(request.items),
            )


@dataclass(slots=True)
class _Run:
    """The items of one request on their way through one deployment."""

    serving: Serving
    task: Task
    parameters: Parameters
    call: Call
    due: float
    large: bool
    pool: WorkerPool

    def is_heavy(self, item: Item) -> bool:
        return self.large or self.task.is_heavy(item)

    async def alone(self, item: Item, flights: Flights) -> dict[str, Any] | ServerError:
        """Answer a light item that is the whole request, without a task of its own."""
        try:
            prepared = self.prepare(item)
            outcome = await flights.wait(self.submit(prepared), self.call, self.due)
            return self.finish(outcome, prepared)
        except Exception as error:
            return as_server_error(error, self.call.id)

    async def item(self, item: Item | ServerError) -> dict[str, Any] | ServerError:
        """Answer one of several items, or a heavy one."""
        if isinstance(item, ServerError):
            return item
        try:
            if self.is_heavy(item):
                prepared = await self.pool.run(self.prepare, item)
            else:
                prepared = self.prepare(item)
            return self.finish(await self.submit(prepared), prepared)
        except Exception as error:
            return as_server_error(error, self.call.id)

    def prepare(self, item: Item) -> Prepared:
        """Turn the item into the model's inputs; may run in any thread."""
        return self.task.prepare(item, self.parameters)

    def submit(self, prepared: Prepared) -> asyncio.Future[Any]:
        """Queue the prepared item."""
        for phase, seconds in prepared.timings.items():
            self.call.observe(_PHASES[phase], seconds)
        return self.serving.batcher.submit(
            Work(
                prepared.inputs,
                prepared.rows,
                self.task.fetches,
                int(self.due * 1e6),
                self.call.priority,
            )
        )

    def finish(self, outcome: Any, prepared: Prepared) -> dict[str, Any]:
        """Turn the model's outputs into the item's result."""
        call = self.call
        call.ran(outcome)
        began = time.monotonic()
        result = self.task.finish(outcome.outputs, prepared, self.parameters)
        call.observe(Phase.POSTPROCESS, time.monotonic() - began)
        return result


def _no_text(item: Item | ServerError) -> ServerError:
    if isinstance(item, ServerError):
        return item
    return InvalidInput(
        "this model translates texts, got something else",
        field=item.field,
        expected='{"text": "..."}',
        got=type(item).__name__.removesuffix("Item").lower(),
    )
