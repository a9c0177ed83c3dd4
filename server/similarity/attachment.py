"""Collections take part in every switch of their model.

`prepare` makes the new version's spaces complete beside the version that answers; the switch then
moves model and spaces in one tick, since each deployment searches only the spaces of its own.
From `commit` on a loop of its own keeps a deployment's spaces complete: items that came through
another version, through another process, or while nothing was loaded.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from itertools import count

from server.errors import ServerError
from server.execution import WorkerPool
from server.repository.background import in_background
from server.repository.deployment import Deployment
from server.repository.loader import load_failed
from server.similarity.backlog import Live
from server.similarity.bindings import Bindings
from server.similarity.embedding import embedding_space
from server.similarity.following import Follower
from server.similarity.spaces import SpaceName

NAME = "similarity"
POLL_S = 5.0  # other processes put items in, too
# Items that come all the time are chased so often; then the switch happens, and searches wait for
# the few that are left (`Bindings.caught_up`).
CHASES = 20
FEW = 256

logger = logging.getLogger("millrace.similarity")


class Following:
    """What one deployment has of this attachment."""

    def __init__(self, live: Live, follower: Follower) -> None:
        """Begin without a loop."""
        self.live = live
        self.follower = follower
        self.loop: asyncio.Task[None] | None = None


class SimilarityAttachment:
    """Brings the collections of a model along with it."""

    name = NAME
    takes_long = True

    def __init__(self, bindings: Bindings, pool: WorkerPool, poll_s: float = POLL_S) -> None:
        """Share `bindings` with what answers requests; decode pictures on `pool`."""
        self._bindings = bindings
        self._pool = pool
        self._poll_s = poll_s

    async def prepare(self, new: Deployment, old: Deployment | None) -> Following:
        """Make the new version's spaces complete, if another version answers meanwhile.

        Raises:
            LoadFailed: the store of the collections cannot be used.
        """
        name = await in_background(partial(embedding_space, new), name="space")
        live = Live(new, name)
        following = Following(live, Follower(self._bindings, live, self._pool))
        # With nothing that answers meanwhile there is no sense in waiting: the loop fills, and
        # answers say what is missing.
        if not self._bindings.live.get(new.model):
            return following
        if name is None:
            with contextlib.suppress(ServerError):  # it needs no collections
                await following.follower.complete_all(moves=True)
        else:
            try:
                await self._bring_along(following, name)
            except BaseException as error:
                self._bindings.remove(live)
                if not isinstance(error, ServerError):
                    raise
                reason = f"its collections cannot be brought along: {error.message}"
                raise load_failed(new.model, new.version, reason) from error
        return following

    def commit(self, new: Deployment, old: Deployment | None) -> None:
        """Let the collections know the deployment, and begin to follow."""
        following = new.attachments[NAME]
        self._bindings.add(following.live)
        following.loop = asyncio.create_task(
            self._follow(following), name=f"follow {new.model} {new.version}"
        )

    async def discard(self, value: object) -> None:
        """Stop to follow."""
        if not isinstance(value, Following):
            return
        self._bindings.remove(value.live)
        if value.loop is not None:
            value.loop.cancel()
            await asyncio.wait([value.loop])

    async def _bring_along(self, following: Following, name: SpaceName) -> None:
        bindings, model = self._bindings, following.live.deployment.model
        preparing = bindings.preparing.setdefault(model, [])
        preparing.append(name)
        try:
            for chase in count():
                seen = bindings.changes
                handled = await following.follower.complete_all(moves=True)
                # Nothing is awaited from here to the switch: what is acknowledged later is known
                # to come later.
                if handled == 0 and seen == bindings.changes:
                    break
                if handled <= FEW and chase >= CHASES:
                    bindings.behind(name)
                    break
        finally:
            preparing.remove(name)
            following.live.deployment.doing = ""

    async def _follow(self, following: Following) -> None:
        live, told = following.live, ""
        while True:
            live.woken.clear()
            try:
                if await following.follower.complete_all(moves=False):
                    live.woken.set()  # there may be more by now
                told = ""
            except ServerError as error:
                if error.message != told:  # once, not every time until it is over
                    told = error.message
                    logger.warning("the collections of %s: %s", live.deployment.model, told)
            except Exception:
                logger.exception("keeping the collections of %s", live.deployment.model)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_s):
                    await live.woken.wait()
