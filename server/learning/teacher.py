"""Learns a classifier from labelled pictures and publishes it as a version like any other.

Whatever takes long runs beside what is served: pictures are embedded by the base model's own
batcher behind requests, fitting and writing have a background thread, the graph is put together in
a child process. One classifier is learned at a time.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from server.errors import Conflict, InvalidInput, LoadFailed
from server.execution import WorkerPool
from server.learning import fitting, kept, sources
from server.learning.examples import (
    Example,
    Lesson,
    check_counts,
    check_size,
    joined,
    make_lesson,
    unreadable,
)
from server.learning.features import (
    golden_rows,
    no_embedding,
    with_features,
    without_features,
)
from server.learning.fitting import METHODS
from server.learning.kept import Base
from server.learning.orders import FromCollection, Order, Step, Taught
from server.learning.report import make_report, near_copies
from server.learning.version_folder import Learned, write_version
from server.repository.background import in_background
from server.repository.deployment import Deployment
from server.repository.publish import check_names
from server.repository.registry import Repository
from server.similarity.embedding import embedding_space, embedding_task
from server.similarity.service import Collections
from server.similarity.spaces import SpaceName

GROUP: Final = 128  # pictures between two steps that are told
USUAL_METHOD: Final = "logistic"
SHOWN: Final = 100


@dataclass
class _Run:
    """One order on its way."""

    order: Order
    name: str = ""
    method: str = USUAL_METHOD
    base_model: str = ""
    base_version: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)  # for the report
    known: tuple[Example, ...] = ()  # that an earlier version kept
    known_base: Base | None = None
    fitting: asyncio.Future[Any] | None = None


class Teacher:
    """Carries out orders, one at a time."""

    def __init__(
        self, repository: Repository, pool: WorkerPool, collections: Collections | None = None
    ) -> None:
        """Keep what orders need.

        Args:
            repository: where base models are loaded, and versions published.
            pool: where pictures are decoded.
            collections: whose items may be learned from.
        """
        self._repository = repository
        self._pool = pool
        self._collections = collections
        self._turn = asyncio.Lock()

    async def teach(self, order: Order) -> AsyncGenerator[Step | Taught]:
        """Yield a `Step` whenever there is something to tell, and at last a `Taught`.

        Raises:
            InvalidInput: the pictures, labels or names cannot be used; the message says which.
            PayloadTooLarge: there are too many.
            Conflict: the name is a model's that was not learned, or pictures that are needed again
                were not kept.
            ModelNotFound, ModelNotReady, LoadFailed: of the base, or of the new version.
        """
        if self._turn.locked():
            yield Step("waiting")
        await self._turn.acquire()
        run = _Run(order)
        try:
            await self._begin(run)
            # Loaded while pictures are embedded: the first time it takes a second.
            library = asyncio.ensure_future(in_background(fitting.load_library, name="library"))
            try:
                with self._repository.lease(run.base_model, run.base_version) as lease:
                    learning = self._learn(run, lease.deployment, library)
                    async with aclosing(learning):
                        async for told in learning:
                            yield told
            finally:
                library.cancel()
        finally:
            self._end_turn(run)

    def _end_turn(self, run: _Run) -> None:
        """Let the next order begin: once a fit that nobody waits for any more is through."""
        if run.fitting is None or run.fitting.done():
            self._turn.release()
        else:
            run.fitting.add_done_callback(lambda _: self._turn.release())

    # What is asked for

    def check(self, order: Order) -> None:
        """Refuse what is wrong with an order whatever its pictures are, which may be long to come.

        Raises:
            InvalidInput, Conflict: its names or options, or learning needs a library.
            ModelNotFound: there is no such base.
        """
        fitting.require_library()
        if order.method is not None and order.method not in METHODS:
            raise InvalidInput(
                f"method {order.method[:40]!r} is not known; expected {' or '.join(METHODS)}",
                field="method",
                expected=list(METHODS),
                got=order.method[:40],
            )
        self._repository.model(order.base)
        name = self._name_of(order)
        check_names(name, order.version)
        if order.version is not None and order.publish:
            self._check_version(name, order.version)

    async def _begin(self, run: _Run) -> None:
        """Find out what is to be made of what; nothing slow happens for an order that is wrong."""
        order = run.order
        self.check(order)
        if not isinstance(order.pictures, FromCollection) and order.pictures:
            check_size(order.pictures)
        run.name = self._name_of(order)
        folder = self._learned_folder(order.base)
        if folder is not None and run.name == order.base:
            await self._continue(run, folder)
        else:
            self._anew(run)

    async def _continue(self, run: _Run, folder: Path) -> None:
        """Add pictures to what a version was learned from."""
        lesson = await in_background(lambda: kept.read(folder), name="lesson")
        run.method = run.order.method or lesson.method
        run.base_model = lesson.base.model
        run.base_version = run.order.base_version
        run.known, run.known_base = lesson.examples, lesson.base
        run.notes["continues"] = folder.name

    def _name_of(self, order: Order) -> str:
        """Return what is to be learned is called: by default as the learned model it adds to."""
        if order.name in (None, order.base) and self._learned_folder(order.base) is not None:
            return order.base
        if not order.name:
            raise InvalidInput(
                "`name` is missing: what shall the classifier be called?",
                field="name",
                expected="a model's name",
                got=None,
            )
        taken = order.name in self._repository.models and self._has_versions(order.name)
        if taken and self._learned_folder(order.name) is None:
            raise Conflict(
                f"there is a model {order.name!r} that was not learned from pictures; choose "
                "another name",
                model=order.name,
            )
        return order.name

    def _anew(self, run: _Run) -> None:
        order = run.order
        if not order.pictures:
            check_size(())
        run.method = order.method or USUAL_METHOD
        run.base_model, run.base_version = order.base, order.base_version

    def _has_versions(self, model: str) -> bool:
        return bool(self._repository.model(model).versions())

    def _learned_folder(self, model: str) -> Path | None:
        """Return the folder of a model's newest version, if that was learned."""
        served = self._repository.models.get(model)
        if served is None or served.snapshot is None or not served.snapshot.versions:
            return None
        newest = list(served.snapshot.versions.values())[-1].folder
        return newest if kept.is_learned(newest) else None

    def _check_version(self, model: str, version: str) -> None:
        served = self._repository.models.get(model)
        if served is not None and version in served.versions():
            raise Conflict(
                f"model {model!r} already has a version {version!r}; leave `version` out for the "
                "next number",
                model=model,
                version=version,
            )

    # Learning

    async def _learn(
        self, run: _Run, base: Deployment, library: asyncio.Future[None]
    ) -> AsyncGenerator[Step | Taught]:
        began = time.monotonic()
        space = await in_background(lambda: embedding_space(base), name="space")
        if space is None:
            raise no_embedding(base)
        examples = await self._examples(run, space)
        yield Step("embedding", 0, len(examples))
        failed: list[tuple[str, str]] = []
        known: list[Example] = []
        for start in range(0, len(examples), GROUP):
            group = examples[start : start + GROUP]
            known += await with_features(base, group, self._pool, failed)
            yield Step("embedding", min(start + GROUP, len(examples)), len(examples))
        lesson = _lesson_of(run, known, failed)
        run.seconds["features"] = time.monotonic() - began
        yield Step("fitting", 0, len(lesson.examples))
        await library
        learned = await self._fitted(run, base, space, lesson)
        if not run.order.publish:
            yield Taught(run.name, None, False, learned.report, run.seconds)
            return
        yield Step("publishing")
        version = await self._published(run, base, learned)
        yield Step("loading")
        loaded = await self._loaded(run, version)
        yield Taught(run.name, version, loaded, learned.report, run.seconds)

    async def _examples(self, run: _Run, space: SpaceName) -> list[Example]:
        """Return all examples, with features where they are known and still comparable."""
        asked = run.order.pictures
        if isinstance(asked, FromCollection):
            new = await self._from_collection(run, asked, space)
        else:
            new = list(asked)
        examples, relabelled = joined(run.known, new)
        run.notes["added"] = len(examples) - len(run.known)
        run.notes["relabelled"] = relabelled[:SHOWN]
        if run.known_base is not None and run.known_base.space != space.key:
            examples = [without_features(each, run.known_base) for each in examples]
        check_size(examples)
        check_counts(Counter(each.label for each in examples))
        return examples

    async def _from_collection(
        self, run: _Run, asked: FromCollection, space: SpaceName
    ) -> list[Example]:
        if self._collections is None:
            raise InvalidInput("this server has no collections", field="collection")
        collection = await self._collections.open(asked.collection)
        examples, unlabelled = await self._collections.run(
            sources.read_collection, collection, asked, space
        )
        run.notes["unlabelled"] = unlabelled[:SHOWN]
        return examples

    async def _fitted(
        self, run: _Run, base: Deployment, space: SpaceName, lesson: Lesson
    ) -> Learned:
        began = time.monotonic()
        task = embedding_task(base)
        assert task is not None  # it has a space
        source = Base(base.model, base.version, task.output, space.key)

        def work() -> tuple[NDArray[np.float32], fitting.Classifier, dict[str, Any]]:
            rows = [each.features for each in lesson.examples if each.features is not None]
            features = np.stack(rows)
            targets = np.asarray(lesson.targets, np.int64)
            names = [each.name for each in lesson.examples]
            classifier = fitting.fit(features, targets, run.method)  # type: ignore[arg-type]  # checked
            report = make_report(lesson, names, classifier, targets)
            report["near_copies"] = near_copies(features, targets, names, lesson.labels)
            return features, classifier, report | run.notes | {"base": asdict(source)}

        fit = run.fitting = asyncio.ensure_future(in_background(work, name="fit"))
        features, classifier, report = await asyncio.shield(fit)
        run.seconds["fit"] = time.monotonic() - began
        return Learned(
            run.name,
            source,
            self._file_of(base),
            base.config,
            base.engine_model.precision,
            lesson,
            features,
            classifier,
            report,
            await golden_rows(base, lesson, self._pool),
        )

    def _file_of(self, base: Deployment) -> Path:
        snapshot = self._repository.model(base.model).snapshot
        found = snapshot.versions.get(base.version) if snapshot is not None else None
        if found is None or found.model_file is None or found.key != base.key:
            raise Conflict(
                f"the files of model {base.model!r} version {base.version!r} have changed since it "
                "was loaded; try again when they are loaded",
                model=base.model,
            )
        return base.folder / found.model_file

    async def _loaded(self, run: _Run, version: str) -> bool:
        """Wait until the version serves; one that cannot is of no use to anybody."""
        began = time.monotonic()
        try:
            loaded = await self._repository.wait_loaded(run.name, version)
        except LoadFailed:
            await self._repository.delete(run.name, version)
            raise
        run.seconds["load"] = time.monotonic() - began
        return loaded is not None

    async def _published(self, run: _Run, base: Deployment, learned: Learned) -> str:
        began = time.monotonic()
        settings, order = self._repository.settings, run.order
        folder = Path(tempfile.mkdtemp(prefix="millrace-learned-"))
        try:
            await in_background(
                lambda: write_version(
                    folder, learned, pictures=order.keep_pictures, isolate=settings.isolate
                ),
                name="write",
            )
            run.seconds["write"] = time.monotonic() - began
            began = time.monotonic()
            published = await self._repository.publish(run.name, order.version, folder)
            run.seconds["publish"] = time.monotonic() - began
        finally:
            await asyncio.shield(
                in_background(lambda: shutil.rmtree(folder, ignore_errors=True), name="sweep")
            )
        return published.version


def _lesson_of(run: _Run, examples: Sequence[Example], failed: Sequence[tuple[str, str]]) -> Lesson:
    if failed and not run.order.skip_unreadable:
        raise unreadable(failed)
    run.notes["unreadable"] = [name for name, _ in failed[:SHOWN]]
    run.notes["ignored"] = list(run.order.ignored[:SHOWN])
    return make_lesson(examples)
