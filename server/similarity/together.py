"""Searches that come at the same time and ask alike, done as one.

Comparing many queries with the same vectors costs little more than comparing one, and so does the
hand-over to a thread. An idle collection is searched at once; while a search runs, those that come
gather for the next one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from server.index.contract import Collection, Space
from server.similarity.search import Found, Sought, Wanted, search

MOST_QUERIES = 64  # of one search; those of one request are never parted

Run = Callable[..., Awaitable[Found]]  # `Collections.run`


class _Kind(NamedTuple):
    """What searches have in common that are done as one."""

    collection: int  # identities: the members' references keep both alive
    space: int
    wanted: Wanted
    filter: str  # as text: to Python 1 and True are equal, to a filter they are not


@dataclass(slots=True)
class _Member:
    collection: Collection
    space: Space | None
    sought: Sequence[Sought]
    answer: asyncio.Future[Found]


@dataclass(slots=True)
class _Group:
    waiting: list[_Member] = field(default_factory=list)
    running: int = 0


class Together:
    """Gathers searches; every method is called on one event loop."""

    def __init__(self, run: Run, most_bytes: int, lanes: int = 1, most: int = MOST_QUERIES) -> None:
        """Search by `run(search, ...)`.

        Args:
            run: calls what blocks in a thread.
            most_bytes: of what one request is told.
            lanes: searches of one kind that may run at a time.
            most: queries of one search.
        """
        self._run = run
        self._most_bytes = most_bytes
        self._lanes = lanes
        self._most = most
        self._groups: dict[_Kind, _Group] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def search(
        self,
        collection: Collection,
        space: Space | None,
        sought: Sequence[Sought],
        wanted: Wanted,
    ) -> Found:
        """Return what `search` does; cancelled before its turn, it is not searched."""
        kind = _Kind(id(collection), id(space), wanted, repr(wanted.query.filter))
        group = self._groups.setdefault(kind, _Group())
        answer: asyncio.Future[Found] = asyncio.get_running_loop().create_future()
        group.waiting.append(_Member(collection, space, sought, answer))
        if group.running < self._lanes:
            group.running += 1
            task = asyncio.create_task(self._drain(kind, group))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _drain(self, kind: _Kind, group: _Group) -> None:
        try:
            while members := self._next(group):
                await self._answer(members, kind.wanted)
        finally:
            group.running -= 1
            if not group.running and not group.waiting:
                self._groups.pop(kind, None)

    def _next(self, group: _Group) -> list[_Member]:
        """Take who is next: as many as fit, in their order, and at least one."""
        taken, held = list[_Member](), 0
        while group.waiting:
            member = group.waiting[0]
            if taken and held + len(member.sought) > self._most:
                break
            group.waiting.pop(0)
            if not member.answer.done():  # its request may have gone
                taken.append(member)
                held += len(member.sought)
        return taken

    async def _answer(self, members: Sequence[_Member], wanted: Wanted) -> None:
        first = members[0]
        sought = [each for member in members for each in member.sought]
        about = sought, wanted, [len(member.sought) for member in members], self._most_bytes
        try:
            found = await self._run(search, first.collection, first.space, *about)
        except BaseException as error:
            for member in members:
                if not member.answer.done():
                    member.answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        start = 0
        for member in members:
            end = start + len(member.sought)
            if not member.answer.done():
                member.answer.set_result(found.part(start, end))
            start = end
