"""Which versions stand behind the collections now, and what their spaces still lack.

One per application, shared by the attachment that takes part in every switch of a model and by
what answers requests. Everything but the methods that say "blocking" belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from server.errors import Conflict
from server.index.contract import Collection, Space, Store
from server.metrics.collections import CollectionsMetrics
from server.repository.deployment import Deployment
from server.similarity.backlog import Backlog, Live, Progress
from server.similarity.embedding import embedding_space
from server.similarity.failures import Failures
from server.similarity.spaces import SpaceName, history_of, made_by, pin_of, set_pin

CATCH_UP_S = 1.0  # how long a search waits for items that were just added
SHORT_BACKLOG = 256  # a longer one is not waited for: the answer says what is missing
PUT_S = 60.0  # from the pin to the item that it is for


class Bindings:
    """Collections and the versions of their models."""

    def __init__(
        self, stores: Callable[[], Store | None], metrics: CollectionsMetrics | None = None
    ) -> None:
        """Begin with no deployment; `stores` gives the store if there is one, and may block."""
        self.stores = stores
        self._metrics = metrics if metrics is not None else CollectionsMetrics()
        self.live: dict[str, list[Live]] = {}  # by model, in the order in which they came
        self.preparing: dict[str, list[SpaceName]] = {}  # by model
        self.moves: dict[tuple[str, str], Progress] = {}  # by collection and key
        self.changes = 0  # of items, through this process
        self._backlogs: dict[tuple[str, str], Backlog] = {}
        self._spaces: dict[tuple[str, str], Space] = {}
        self._pin_lock = threading.Lock()  # what is known of a pin never lags behind the store
        self._pins: dict[str, SpaceName | None] = {}
        self._pinned_s: dict[str, float] = {}  # when this process did it
        self._failures: dict[tuple[str, str], Failures] = {}

    # Requests

    def version_for(self, collection: Collection) -> str | None:
        """Return the version that pictures must go through; None: the one that serves by default.

        The first call for a collection reads a fact of it.
        """
        pin = self.pin_of(collection)
        maker = made_by(pin.key) if pin is not None else None
        return maker.version if maker is not None else None

    def knows_pin_of(self, collection: Collection) -> bool:
        """Say whether `version_for` needs nothing from the store."""
        return collection.spec.name in self._pins

    def knows_space_of(self, collection: Collection, deployment: Deployment) -> bool:
        """Say whether `resolve` needs nothing from the store."""
        name = embedding_space(deployment)
        key = "" if name is None else name.key
        known = name is None or (collection.spec.name, key) in self._spaces
        return known and self.knows_pin_of(collection)

    def resolve(self, collection: Collection, deployment: Deployment) -> Space:
        """Return the space in which a deployment's vectors are searched and kept.

        The first call for a collection and a deployment may read from the store.

        Raises:
            Conflict: the deployment makes no vectors, or the collection is pinned to others.
        """
        bound, name = collection.spec, embedding_space(deployment)
        if bound.model != deployment.model:
            raise Conflict(
                f"collection {bound.name!r} is bound to {_model_words(bound.model)}, not to "
                f"model {deployment.model!r}",
                collection=bound.name,
            )
        if name is None:
            raise Conflict(
                f"model {deployment.model!r} version {deployment.version!r} makes no vectors of "
                f"pictures, so collection {bound.name!r} cannot be asked through it; name a "
                "version with an [embedding], or search by id or vector",
                collection=bound.name,
            )
        pin = self.pin_of(collection)
        if pin is not None and pin.key != name.key:
            raise self.unavailable(collection, pin)
        return self.space(collection, name)

    def unavailable(self, collection: Collection, pin: SpaceName) -> Conflict:
        """Return the error for a pinned collection whose version is not there."""
        maker = made_by(pin.key)
        model, version = (maker.model, maker.version) if maker is not None else (pin.key, "?")
        return Conflict(
            f"collection {collection.spec.name!r} holds items without pictures and stays with "
            f"model {model!r} version {version!r}, as it was when they came; load that version "
            f"(POST /models/{model}/load, naming it), search by id or vector, or put the "
            "items in again with their pictures",
            collection=collection.spec.name,
            pinned=pin.key,
        )

    def resting(self, collection: Collection) -> Space | None:
        """Return what can be searched by id or vector while no version is loaded. Blocking."""
        pin = self.pin_of(collection)
        names = [pin] if pin is not None else history_of(collection)
        present = set(collection.spaces())
        found = next((name for name in names if name.key in present), None)
        return self.space(collection, found) if found is not None else None

    async def caught_up(self, collection: Collection, deployment: Deployment) -> None:
        """Wait a moment for items that were added through another version, if there are some."""
        backlog = self._backlog_of(collection, deployment) or self._unknown(collection, deployment)
        if backlog is None or backlog.clean or backlog.missing > SHORT_BACKLOG:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_S):
                await backlog.settled()

    def missing(self, collection: Collection, deployment: Deployment) -> int:
        """Return how many items had no vector yet when they were last counted."""
        backlog = self._backlog_of(collection, deployment)
        return backlog.missing if backlog is not None else 0

    def _unknown(self, collection: Collection, deployment: Deployment) -> Backlog | None:
        """Have a space looked at that was not yet; None if nobody follows the deployment."""
        for live in self.live.get(deployment.model, ()):
            if live.deployment is deployment and live.name is not None:
                backlog = self.backlog(collection, live.name)
                backlog.grew()
                live.woken.set()
                return backlog
        return None

    def behind(self, name: SpaceName) -> None:
        """Note that a version goes live before its spaces are known to be complete."""
        for (_, key), backlog in list(self._backlogs.items()):
            if key == name.key:
                backlog.grew()

    def _backlog_of(self, collection: Collection, deployment: Deployment) -> Backlog | None:
        name = embedding_space(deployment)
        return self._backlogs.get((collection.spec.name, name.key)) if name is not None else None

    # Changes

    def changed(self, collection: Collection, through: Deployment | None) -> None:
        """Note that items were put in; before that is acknowledged.

        Args:
            collection: where.
            through: the deployment that made their vectors, if one did.
        """
        self.changes += 1
        made = embedding_space(through) if through is not None else None
        for live in self.live.get(collection.spec.model or "", ()):
            if live.name is not None and live.name != made:
                self.backlog(collection, live.name).grew()
                live.woken.set()

    def pin(self, collection: Collection, name: SpaceName, *, to_come: bool = True) -> None:
        """Bind a collection to a space for as long as it holds items without pictures. Blocking.

        Args:
            collection: which.
            name: where the vectors of those items are.
            to_come: the first of them is still to be put in.

        Raises:
            Conflict: it is bound to another one.
        """
        with self._pin_lock:
            pin = pin_of(collection)
            if pin is not None and pin.key != name.key:
                raise self.unavailable(collection, pin)
            if to_come:
                self._pinned_s[collection.spec.name] = time.monotonic()
            if pin is None:
                set_pin(collection, name)
            self._pins[collection.spec.name] = name

    def may_unpin(self, collection: Collection) -> bool:
        """Say whether the item that a pin was set for has come and gone, not still to come."""
        pinned_s = self._pinned_s.get(collection.spec.name)
        return pinned_s is None or time.monotonic() - pinned_s > PUT_S

    def unpin(self, collection: Collection) -> None:
        """Let a collection follow its model again. Blocking."""
        with self._pin_lock:
            set_pin(collection, None)
            self._pins[collection.spec.name] = None

    def forget(self, name: str) -> None:
        """Drop what is known of a collection that is gone, or was put in place anew."""
        self._pins.pop(name, None)
        self._pinned_s.pop(name, None)
        for known in self._by_space():
            for pair in [pair for pair in list(known) if pair[0] == name]:
                known.pop(pair, None)

    # What the parts of the binding share

    def space(self, collection: Collection, name: SpaceName) -> Space:
        """Return a space, made if need be; blocking at its first use."""
        pair = (collection.spec.name, name.key)
        found = self._spaces.get(pair)
        if found is None:
            found = self._spaces[pair] = collection.space(name.key, name.dim)
        return found

    def drop_space(self, collection: Collection, key: str) -> None:
        """Forget a space and its vectors. Blocking."""
        for known in self._by_space():
            known.pop((collection.spec.name, key), None)
        collection.drop_space(key)
        collection.set_fact(Failures.fact(key), None)

    def _by_space(self) -> tuple[dict[tuple[str, str], Any], ...]:
        return self._spaces, self._backlogs, self._failures, self.moves

    def backlog(self, collection: Collection, name: SpaceName) -> Backlog:
        """Return what a space lacks."""
        return self._backlogs.setdefault((collection.spec.name, name.key), Backlog())

    def lacks(self, collection: Collection, name: SpaceName, missing: int) -> None:
        """Note how many items are still to be embedded in a space."""
        self.backlog(collection, name).missing = missing
        maker = made_by(name.key)
        if maker is not None:
            self._metrics.of(collection.spec.name).missing[maker.version] = missing

    def add(self, live: Live) -> None:
        """Note that a deployment answers from now on."""
        self.live.setdefault(live.deployment.model, []).append(live)

    def remove(self, live: Live) -> None:
        """Note that a deployment does not answer any more, or never did."""
        model = live.deployment.model
        lives = [each for each in self.live.get(model, ()) if each is not live]
        self.live[model] = lives
        if not lives:
            del self.live[model]
        same = (each.name for each in lives)
        if live.name is None or live.name in same:
            return
        for name, key in self._backlogs:
            if key == live.name.key and name in self._metrics.by_name:
                self._metrics.by_name[name].missing.pop(live.deployment.version, None)

    def failures(self, collection: Collection, name: SpaceName) -> Failures:
        """Return the items that a space's version cannot read; blocking at its first use."""
        pair = (collection.spec.name, name.key)
        found = self._failures.get(pair)
        if found is None:
            found = self._failures[pair] = Failures.read(collection, name.key)
        return found

    def pin_of(self, collection: Collection, *, again: bool = False) -> SpaceName | None:
        """Return the space that a collection is pinned to; blocking at first, and when `again`."""
        name = collection.spec.name
        if not again and name in self._pins:
            return self._pins[name]
        with self._pin_lock:
            found = self._pins[name] = pin_of(collection)
        return found

    def in_use(self, model: str) -> Iterable[str]:
        """Return the keys of a model's versions that answer, or are about to."""
        names = [live.name for live in self.live.get(model, ())]
        return [name.key for name in (*names, *self.preparing.get(model, ())) if name is not None]

    # Telling

    def status(self, collection: Collection) -> dict[str, Any]:
        """Describe how a collection is bound to its model. Blocking."""
        model = collection.spec.model
        pin = self.pin_of(collection, again=True)
        lives = [live for live in self.live.get(model or "", ()) if live.name is not None]
        current = pin or next(iter([live.name for live in reversed(lives)]), None)
        current = current or next(iter(history_of(collection)), None)
        maker = made_by(current.key) if current is not None else None
        moving = [
            p.describe() for (name, _), p in self.moves.items() if name == collection.spec.name
        ]
        return {
            "model": model,
            "version": maker.version if maker is not None else None,
            "space": current.key if current is not None else None,
            "spaces": collection.spaces(),
            "pinned": None if pin is None else _why_pinned(collection, pin),
            "moving": moving[0] if moving else None,
            "failed": [] if current is None else self.failures(collection, current).shown(),
        }


def _why_pinned(collection: Collection, pin: SpaceName) -> dict[str, Any]:
    size = collection.size()
    without = size.items - size.pictures
    return {
        "space": pin.key,
        "reason": f"{without} of its {size.items} items came without a picture, so no other "
        "version can make their vectors",
    }


def _model_words(model: str | None) -> str:
    return f"model {model!r}" if model is not None else "no model"
