"""Keep all collections of one deployment's model complete in its spaces."""

from __future__ import annotations

import asyncio
import contextlib
import logging

from server.errors import NotFound
from server.execution import WorkerPool
from server.index.contract import Collection
from server.repository.background import in_background
from server.similarity.backlog import Backlog, Live, Progress
from server.similarity.bindings import Bindings
from server.similarity.failures import Failures
from server.similarity.reembedding import Filling, alone
from server.similarity.spaces import SpaceName, history_of, remember, superseded

OTHERS_S = 0.5  # between two looks at a space that another process fills
WORTH_TELLING = 64  # pictures; fewer are done before anybody has read a line about them

logger = logging.getLogger("millrace.similarity")


class Follower:
    """Completes the spaces of one deployment, whenever it is asked to."""

    def __init__(self, bindings: Bindings, live: Live, pool: WorkerPool) -> None:
        """Begin with nothing looked at."""
        self._bindings = bindings
        self._live = live
        self._pool = pool
        self._settled: dict[str, Collection] = {}  # that were complete once

    async def complete_all(self, *, moves: bool) -> int:
        """Make what every collection of the model lacks; returns how many items that were.

        0: all of them were found complete.

        Args:
            moves: the deployment is about to answer: collections that can be moved are, and it
                is waited for what another process does.

        Raises:
            ServerError: the store cannot be used.
        """
        handled, faults = 0, list[Exception]()
        for collection in await in_background(self._collections, name="collections"):
            try:
                handled += await self._look_after(collection, moves=moves)
            except NotFound:  # it was dropped meanwhile, or is another one by now
                self._bindings.forget(collection.spec.name)
            except Exception as error:  # the other collections are not to suffer from it
                faults.append(error)
                if self._live.name is not None:
                    self._bindings.backlog(collection, self._live.name).give_up()
        if faults:
            raise faults[0]
        return handled

    async def _look_after(self, collection: Collection, *, moves: bool) -> int:
        if self._live.name is None:
            if moves:
                await in_background(lambda: self._remember_answering(collection), name="pin")
            self._tell_forsaken(collection)
            return 0
        if not await in_background(lambda: self._may_fill(collection, moves=moves), name="pin"):
            return 0
        return await self._complete(collection, self._live.name, waits=moves)

    def _collections(self) -> list[Collection]:
        store = self._bindings.stores()
        if store is None:
            return []
        found = []
        for name in store.names():
            with contextlib.suppress(NotFound):  # it was dropped since
                found.append(store.open(name))
        return [each for each in found if each.spec.model == self._live.deployment.model]

    def _tell_forsaken(self, collection: Collection) -> None:
        if not self._is_settled(collection):
            self._settled[collection.spec.name] = collection
            deployment = self._live.deployment
            logger.warning(
                "collection %s cannot be asked through model %s version %s: it has no embedding",
                *(collection.spec.name, deployment.model, deployment.version),
            )

    def _is_settled(self, collection: Collection) -> bool:
        # The one of this name now may be another than the one that was there before.
        return self._settled.get(collection.spec.name) is collection

    def _may_fill(self, collection: Collection, *, moves: bool) -> bool:
        name = self._live.name
        assert name is not None  # asked only then
        pin = self._bindings.pin_of(collection, again=True)
        if moves:
            self._remember_answering(collection)
        if moves or (pin is None and not self._is_settled(collection)):
            size = collection.size()
            if size.items == size.pictures:
                if pin is not None and self._bindings.may_unpin(collection):
                    self._bindings.unpin(collection)
                    pin = None
            elif pin is None and (home := self._home(collection)) is not None:
                self._bindings.pin(collection, home, to_come=False)
                pin = home
        return pin is None or pin.key == name.key

    def _remember_answering(self, collection: Collection) -> None:
        """Put what answers now into the history, or a way back would find it dropped."""
        present = set(collection.spaces()) - {name.key for name in history_of(collection)}
        for live in list(self._bindings.live.get(collection.spec.model or "", ())):
            if live.name is not None and live.name.key in present:
                remember(collection, live.name)

    def _home(self, collection: Collection) -> SpaceName | None:
        """Return the space that items without pictures have their vectors in."""
        lives = self._bindings.live.get(collection.spec.model or "", ())
        names = [*history_of(collection), *(live.name for live in lives if live.name is not None)]
        present = set(collection.spaces())
        spaces = {
            each: self._bindings.space(collection, each) for each in names if each.key in present
        }
        return min(spaces, key=lambda each: spaces[each].state().missing, default=None)

    async def _complete(self, collection: Collection, name: SpaceName, *, waits: bool) -> int:
        """Make what is missing now; what comes meanwhile is for the next call."""
        backlog = self._bindings.backlog(collection, name)
        while True:
            changes = backlog.changes
            if not await in_background(lambda: self._lacks(collection, name), name="fill"):
                break
            async with alone(collection, name.key) as inside:
                if inside:
                    return await self._fill(collection, name, backlog)
            if not waits:
                return 0
            self._live.deployment.doing = f"collection {collection.spec.name} is filled elsewhere"
            await asyncio.sleep(OTHERS_S)
        backlog.cover(changes)
        if not self._is_settled(collection) and not waits:
            await in_background(lambda: self._settle(collection, name), name="settle")
        return 0

    def _lacks(self, collection: Collection, name: SpaceName) -> bool:
        """Count what is missing and can be made; say whether there is any."""
        space = self._bindings.space(collection, name)
        failures = self._bindings.failures(collection, name)
        found = space.missing(len(failures) + 1)
        fresh = any(not failures.has(item) for item in found)
        missing = max(1, space.state().missing - len(failures)) if fresh else 0
        self._bindings.lacks(collection, name, missing)
        return fresh

    async def _fill(self, collection: Collection, name: SpaceName, backlog: Backlog) -> int:
        bindings, deployment = self._bindings, self._live.deployment
        space = bindings.space(collection, name)
        failures: Failures = bindings.failures(collection, name)
        where = (collection.spec.name, name.key)
        progress = Progress(name.key, backlog.missing)
        tells = progress.total >= WORTH_TELLING
        if tells:
            bindings.moves[where] = progress
            logger.info(
                "collection %s: %d pictures to embed for %s", where[0], progress.total, where[1]
            )

        def told(done: int, failed: int) -> None:
            progress.add(done, failed)
            left = max(0, progress.total - progress.done - progress.failed)
            bindings.lacks(collection, name, left)
            deployment.doing = (
                f"collection {where[0]}: {progress.done + progress.failed} of {progress.total}"
                f" pictures, {progress.describe()['eta_s']} s left"
            )

        try:
            filling = Filling(collection, space, deployment, failures, self._pool)
            handled = await filling.run(progress.total, told)
        finally:
            bindings.moves.pop(where, None)
            deployment.doing = ""
        if tells:
            logger.info(
                "collection %s: %d pictures embedded for %s, %d failed",
                *(where[0], progress.done, where[1], progress.failed),
            )
        return handled

    def _settle(self, collection: Collection, name: SpaceName) -> None:
        """Remember that this space is complete, and drop what is too old to go back to."""
        history = remember(collection, name)
        self._settled[collection.spec.name] = collection
        if self._bindings.pin_of(collection) is not None:
            return
        used = self._bindings.in_use(collection.spec.model or "")
        for key in superseded(collection.spaces(), history, used):
            logger.info("collection %s: space %s is dropped", collection.spec.name, key)
            self._bindings.drop_space(collection, key)
