from __future__ import annotations

import asyncio

import pytest

from server.errors import InvalidInput
from server.index.contract import Query
from server.index.filters import Compare
from server.similarity.search import Found, ItemId, Wanted
from server.similarity.together import Together

COLLECTION, SPACE = object(), object()
MOST_BYTES = 1000


class Index:
    """Notes what is searched; every search waits until it is let go."""

    def __init__(self, fails=None):
        self.calls = []
        self.go = asyncio.Semaphore(0)
        self.fails = fails

    async def run(self, fn, collection, space, sought, wanted, requests, most_bytes):
        assert sum(requests) == len(sought) and most_bytes == MOST_BYTES
        assert (collection, space) == (COLLECTION, SPACE)
        self.calls.append([each.id for each in sought])
        await self.go.acquire()
        if self.fails:
            raise self.fails
        return Found([[{"id": each.id}] for each in sought], list(sought), (), 0.5, 0.25)


def ask(together, *ids, wanted=None):
    sought = [ItemId(id) for id in ids]
    work = together.search(COLLECTION, SPACE, sought, wanted or Wanted())
    return asyncio.ensure_future(work)


async def turns(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


def ids(found):
    return [hit["id"] for hits in found.results for hit in hits]


async def test_those_that_come_meanwhile_go_together():
    index = Index()
    together = Together(index.run, MOST_BYTES)
    first = ask(together, "a")
    await turns()
    others = [ask(together, "b"), ask(together, "c", "d"), ask(together, "e")]
    await turns()
    assert index.calls == [["a"]]
    index.go.release()
    assert ids(await first) == ["a"]
    index.go.release()
    assert [ids(await each) for each in others] == [["b"], ["c", "d"], ["e"]]
    assert index.calls == [["a"], ["b", "c", "d", "e"]]
    assert (await others[1]).index_s == 0.5 and len((await others[1]).rows) == 2
    await turns()
    assert not together._groups and not together._tasks


async def test_a_search_holds_so_many_queries():
    index = Index()
    together = Together(index.run, MOST_BYTES, most=3)
    work = [ask(together, "a")]
    await turns()
    work += [
        ask(together, *"bc"),
        ask(together, *"de"),
        ask(together, *"fghij"),
        ask(together, "k"),
    ]
    for _ in range(6):
        index.go.release()
    found = [ids(each) for each in await asyncio.gather(*work)]
    assert found == [["a"], ["b", "c"], ["d", "e"], [*"fghij"], ["k"]]
    assert index.calls == [["a"], ["b", "c"], ["d", "e"], [*"fghij"], ["k"]]


async def test_lanes_search_side_by_side():
    index = Index()
    together = Together(index.run, MOST_BYTES, lanes=2, most=1)
    work = [ask(together, id) for id in "abcd"]
    await turns()
    assert len(index.calls) == 2
    for _ in range(4):
        index.go.release()
    assert [ids(each) for each in await asyncio.gather(*work)] == [[id] for id in "abcd"]


@pytest.mark.parametrize(
    "other",
    [
        Wanted(Query(k=3)),
        Wanted(keep_self=True),
        Wanted(wants=frozenset()),
        Wanted(Query(filter=Compare(("n",), "eq", True))),
        Wanted(Query(filter=Compare(("n",), "eq", 1.0))),
    ],
)
async def test_those_that_ask_otherwise_go_alone(other):
    index = Index()
    together = Together(index.run, MOST_BYTES)
    one = Wanted(Query(filter=Compare(("n",), "eq", 1)))
    work = [ask(together, "a", wanted=one), ask(together, "b", wanted=other)]
    await turns()
    assert index.calls == [["a"], ["b"]]
    index.go.release()
    index.go.release()
    await asyncio.gather(*work)


async def test_an_error_is_told_to_all_who_went_together():
    index = Index(InvalidInput("no"))
    together = Together(index.run, MOST_BYTES)
    work = [ask(together, "a")]
    await turns()
    work += [ask(together, "b"), ask(together, "c")]
    index.go.release()
    index.go.release()
    errors = await asyncio.gather(*work, return_exceptions=True)
    assert [str(error) for error in errors] == ["no"] * 3
    index.fails = None
    index.go.release()
    assert ids(await ask(together, "d")) == ["d"]


async def test_who_has_gone_is_not_searched():
    index = Index()
    together = Together(index.run, MOST_BYTES)
    first = ask(together, "a")
    await turns()
    gone, stays = ask(together, "b"), ask(together, "c")
    await turns()
    gone.cancel()
    first.cancel()
    await turns()
    index.go.release()
    index.go.release()
    assert ids(await stays) == ["c"] and index.calls == [["a"], ["c"]]
    assert gone.cancelled() and first.cancelled()
