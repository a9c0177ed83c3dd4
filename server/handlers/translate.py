"""Texts in, translations out: what `/translate`, `/predict` and the tensor doors share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from server.errors import InvalidInput, ModelNotReady, ServerError
from server.execution import WorkerPool
from server.handlers.call import Call
from server.handlers.failures import as_server_error
from server.handlers.flights import Flights
from server.metrics import Phase
from server.repository.deployment import Deployment, Lease
from server.repository.registry import Repository
from server.serving import Serving, TextServing, serving_of
from server.settings import Settings
from server.tasks import TranslationOptions
from server.tasks.translation import AUTO
from server.text import Detection, LanguageDetector, base_language
from server.translation.documents import Order
from server.translation.translated import Translation

Outcome = Translation | ServerError


@dataclass(slots=True)
class TranslateRequest:
    """What to translate, and how; without a model, one that translates these languages."""

    texts: list[str]
    model: str | None = None
    version: str | None = None
    label: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    lenient: bool = False  # of several models that fit, take the first


@dataclass(slots=True)
class TranslateReply:
    """The answer: one outcome per text, in order; a text that failed is its error."""

    model: str
    version: str
    options: TranslationOptions
    outcomes: list[Outcome]

    def described(self) -> list[dict[str, Any] | ServerError]:
        """Return the outcomes as plain data."""
        return [
            each if isinstance(each, ServerError) else each.describe(self.options)
            for each in self.outcomes
        ]


@dataclass(frozen=True, slots=True)
class Piece:
    """More of the translation of one text, while it is being made."""

    index: int
    text: str


Tell = Callable[[Piece], None]


class TranslateHandler:
    """Answers `TranslateRequest`s, at once or piece by piece."""

    def __init__(
        self,
        repository: Repository,
        pool: WorkerPool,
        flights: Flights,
        settings: Settings,
        detector: LanguageDetector,
    ) -> None:
        """Keep what every request uses."""
        self._repository = repository
        self._pool = pool
        self._flights = flights
        self._settings = settings
        self._detector = detector

    async def translate(
        self, request: TranslateRequest, call: Call, parse_s: float = 0.0
    ) -> TranslateReply:
        """Translate every text; raises only what concerns the whole request."""
        self._check_count(request)
        with await self._lease(request) as lease:
            run = self._begin(lease.deployment, request, call, parse_s)
            outcomes = await translate_all(run, request.texts, self._flights)
            return TranslateReply(run.model, run.version, run.options, outcomes)

    async def stream(
        self, request: TranslateRequest, call: Call, parse_s: float = 0.0
    ) -> AsyncGenerator[Piece | TranslateReply]:
        """Yield what is settled as it comes, and at last the whole answer.

        Raises:
            ServerError: what `translate` raises; also when the client has gone.
        """
        self._check_count(request)
        with await self._lease(request) as lease:
            run = self._begin(lease.deployment, request, call, parse_s)
            pieces: asyncio.Queue[Piece | None] = asyncio.Queue()
            work = asyncio.ensure_future(
                translate_all(run, request.texts, self._flights, pieces.put_nowait)
            )
            work.add_done_callback(lambda _: pieces.put_nowait(None))
            try:
                while (piece := await pieces.get()) is not None:
                    yield piece
                yield TranslateReply(run.model, run.version, run.options, await work)
            finally:
                work.cancel()

    async def detect(self, text: str) -> tuple[Detection, ...]:
        """Return the languages that a text may be in, likeliest first."""
        return await self._pool.run(self._detector.detect, text)

    def languages(self) -> dict[str, set[str]]:
        """Return what can be translated to what: source -> targets, over all models."""
        pairs: dict[str, set[str]] = {}
        for deployment in self._repository.defaults():
            model = deployment.text_model
            if model is not None:
                sources, targets = model.languages()
                for source in sources:
                    pairs.setdefault(source, set()).update(targets)
        return pairs

    # Which model

    async def _lease(self, request: TranslateRequest) -> Lease:
        name = request.model
        if name is None:
            name = await self._pick(request)
        return self._repository.lease(name, request.version, request.label)

    async def _pick(self, request: TranslateRequest) -> str:
        """Return the name of the model that translates these languages."""
        found = [each for each in self._repository.defaults() if each.text_model is not None]
        if not found:
            raise ModelNotReady("no translation model is loaded; see GET /models for the reasons")
        if len(found) == 1:
            return found[0].model
        source, target = request.parameters.get("source"), request.parameters.get("target")
        if source == AUTO and request.texts:
            detected = await self.detect("\n".join(request.texts)[:2000])
            source = detected[0].language if detected else None
        fitting = [each.model for each in found if _fits(each, source, target)]
        if len(fitting) == 1 or (fitting and request.lenient):
            return fitting[0]
        names = [each.model for each in found]
        raise InvalidInput(
            f"name the model, or languages that only one has: {', '.join(names[:20])} translate",
            field="model",
            expected=names[:20],
            got=None,
        )

    def _begin(
        self, deployment: Deployment, request: TranslateRequest, call: Call, parse_s: float
    ) -> TextRun:
        serving = serving_of(deployment)
        call.of(deployment.model, deployment.version, serving.metrics)
        call.observe(Phase.PARSE, parse_s)
        if isinstance(serving, Serving):
            raise other_task("translation", serving, deployment)
        return begin_run(deployment, serving, request.parameters, call, self._settings)

    def _check_count(self, request: TranslateRequest) -> None:
        most = self._settings.max_items
        if not 1 <= len(request.texts) <= most:
            raise InvalidInput(
                f"send 1 to {most} texts at a time, got {len(request.texts)}",
                field="text",
                expected=f"1..{most} texts",
                got=len(request.texts),
            )


@dataclass(slots=True)
class TextRun:
    """One request on its way through one deployment."""

    model: str
    version: str
    serving: TextServing
    options: TranslationOptions
    call: Call
    due: float

    async def one(self, text: str, index: int, tell: Tell | None) -> Outcome:
        """Translate one text; what goes wrong is its outcome."""
        on_text = None if tell is None else lambda piece: tell(Piece(index, piece))
        order = Order(int(self.due * 1e6), self.call.priority)
        try:
            return await self.serving.translator.translate(text, self.options, order, on_text)
        except Exception as error:
            return as_server_error(error, self.call.id)


def begin_run(
    deployment: Deployment,
    serving: TextServing,
    parameters: Mapping[str, Any],
    call: Call,
    settings: Settings,
) -> TextRun:
    """Check a request's parameters and its deadline.

    Raises:
        InvalidInput: a parameter is unknown or wrong.
    """
    options = serving.task.options(serving.task.parameters(parameters))
    due = call.due(deployment.config.batching.timeout_ms, settings.request_timeout_s)
    return TextRun(deployment.model, deployment.version, serving, options, call, due)


async def translate_all(
    run: TextRun, texts: Sequence[str], flights: Flights, tell: Tell | None = None
) -> list[Outcome]:
    """Translate texts side by side, until all are done, the client has gone, or time is up."""
    work = asyncio.gather(*[run.one(text, index, tell) for index, text in enumerate(texts)])
    outcomes = await flights.wait(work, run.call, run.due)
    _note_times(outcomes, run.call)
    return outcomes


def _note_times(outcomes: Sequence[Outcome], call: Call) -> None:
    """Add the time of the slowest sentence; sentences wait and run side by side."""
    results = [
        result
        for outcome in outcomes
        if isinstance(outcome, Translation)
        for sentence in outcome.sentences
        for result in sentence.results
    ]
    if results:
        call.add("queue", max(result.queue_us for result in results) * 1e-6)
        call.add("compute", max(result.compute_us for result in results) * 1e-6)


def _fits(deployment: Deployment, source: Any, target: Any) -> bool:
    model = deployment.text_model
    if model is None:
        return False
    sources, targets = model.languages()
    return _has(sources, source) and _has(targets, target)


def _has(languages: Sequence[str], asked: Any) -> bool:
    return not asked or not languages or base_language(str(asked)) in languages


def other_task(
    wanted: str | None, serving: Serving | TextServing, deployment: Deployment
) -> InvalidInput:
    """Return the error of a door that a model is not for."""
    have = " and ".join(serving.tasks)
    doors = {"classification": "/classify", "embedding": "/embed", "translation": "/translate"}
    hint = ""
    if have == "tensors" and wanted in ("classification", "embedding"):
        # Nothing in a bare graph says what its numbers mean: that is for its owner to say.
        hint = f', or set task = "{wanted}" in its model.toml'
    return InvalidInput(
        f"model {deployment.model!r} is for {have}, not for {wanted}; send it to "
        f"{doors.get(serving.task.name, '/predict')}{hint}",
        field="model",
        expected=wanted,
        got=have,
    )
