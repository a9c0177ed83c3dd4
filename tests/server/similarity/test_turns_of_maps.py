"""One map is drawn at a time, also when those who asked for the others have gone."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from server.errors import DeadlineExceeded, InvalidInput
from server.handlers import collection_map
from server.handlers.call import Call
from server.handlers.collection_map import MapHandler, MapRequest
from server.handlers.flights import Flights

WAIT_S = 60.0


async def run(fn, *args):
    return fn(*args)


class Space:
    key = "k"

    def sample(self, limit, seed):
        return ["a", "b"], np.eye(2, dtype=np.float32)


async def opened(_):
    return SimpleNamespace(size=lambda: SimpleNamespace(items=2), get=lambda ids: [None] * 2)


async def looked_at(_):
    return Space()


async def test_a_map_that_nobody_waits_for_keeps_its_turn(monkeypatch: pytest.MonkeyPatch):
    begun, may_end = [], threading.Event()

    def project(vectors, method, seed):
        begun.append(method)
        assert may_end.wait(WAIT_S)
        return np.zeros((2, 2), np.float32)

    monkeypatch.setattr(collection_map, "project", project)
    settings = SimpleNamespace(request_timeout_s=0.05, max_answer_bytes=1 << 20)
    collections = SimpleNamespace(run=run, open=opened, looked_at=looked_at, settings=settings)
    handler = MapHandler(collections, Flights())
    further = 3
    while not begun or (further := further - 1):  # the first may be late before it has a thread
        with pytest.raises(DeadlineExceeded):
            await handler.points(MapRequest("c"), Call("id"))
    assert begun == ["pca"]  # the others never got a thread
    with pytest.raises(DeadlineExceeded, match="a map by pca is being drawn; ask again"):
        await handler.points(MapRequest("c", "tsne"), Call("id"))
    settings.request_timeout_s = WAIT_S
    last = asyncio.ensure_future(handler.points(MapRequest("c", "tsne"), Call("id")))
    may_end.set()
    assert (await last).items() == []
    assert begun == ["pca", "tsne"]


@pytest.mark.parametrize("wanted", ["thumbnail", "vector"])
async def test_what_is_long_comes_with_fewer_items(wanted: str):
    handler = MapHandler(SimpleNamespace(settings=SimpleNamespace(request_timeout_s=9)), Flights())
    with pytest.raises(InvalidInput, match="at most 10000 items, got 10001"):
        await handler.points(MapRequest("c", limit=10_001, wants=frozenset({wanted})), Call("id"))
