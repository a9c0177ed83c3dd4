"""Two servers on one PostgreSQL move a collection together: one of them embeds, once."""

from __future__ import annotations

import asyncio
from pathlib import Path

from server.index.contract import CollectionSpec
from server.index.postgres import open_store
from server.similarity.spaces import made_by
from tests.server.index.postgres.conftest import postgres, store, url  # noqa: F401 - fixtures
from tests.server.similarity.moving import moving
from tests.server.similarity.nets import add_eyes


async def test_two_servers_move_together(tmp_path: Path, store, url):  # noqa: F811
    here, there = tmp_path / "here", tmp_path / "there"
    store.create(CollectionSpec("c", model="eyes"))
    other = open_store(url)
    for root in (here, there):
        add_eyes(root, "1")
    async with moving(here, store) as one, moving(there, other) as two:
        await one.add(range(40))
        assert await two.nearest(7) == ("1", ["7"])
        for root in (here, there):
            add_eyes(root, "2", dim=9)
        await asyncio.gather(one.serves("2"), two.serves("2"))
        assert await one.nearest(7) == ("2", ["7"])
        await one.add([99])
        assert await two.nearest(99) == ("2", ["99"])
        versions = [made_by(key) for key in store.open("c").spaces()]
        assert [each.version for each in versions if each is not None] == ["1", "2"]
    other.close()
