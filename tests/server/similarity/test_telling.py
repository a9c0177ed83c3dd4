"""What is told of hits fits an answer: what does not is refused, or left out and counted."""

from __future__ import annotations

import base64
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest

from server.errors import InvalidInput, NotFound
from server.index.contract import Hit
from server.similarity import telling
from server.similarity.telling import NUMBER_BYTES, THUMBNAIL_FRAME, extras_of, tell, thumbnails_of
from tests.server.running import running_server
from tests.server.similarity.conftest import settings_of
from tests.server.similarity.nets import png

ALL = frozenset(telling.WANTS)
ROOM = 1 << 30


class Kept:
    """A collection that notes how many items are read at a time, and how many in all."""

    def __init__(self, count: int, metadata: dict[str, object], thumbnail: int | None) -> None:
        self.ids = [f"i{number}" for number in range(count)]
        self.metadata, self.thumbnail = metadata, thumbnail
        self.read: Counter[str] = Counter()
        self.widest = 0

    def _note(self, kind: str, ids) -> None:
        self.read[kind] += len(ids)
        self.widest = max(self.widest, len(ids))

    def get(self, ids):
        self._note("items", ids)
        return [SimpleNamespace(metadata=self.metadata) if id in self.ids else None for id in ids]

    def thumbnails(self, ids):
        self._note("thumbnails", ids)
        return [None if self.thumbnail is None else bytes(self.thumbnail) for _ in ids]

    def pictures(self, ids, most_bytes=None):
        self._note("pictures", ids)
        return [None if most_bytes is not None and most_bytes < 1000 else b"p" for _ in ids]


class Space:
    dim = 4

    def vectors(self, ids):
        return [np.zeros(self.dim, np.float32) for _ in ids]


def hits(*ids):
    return [Hit(id, 1.0) for id in ids]


def test_everything_where_there_is_room():
    kept = Kept(3, {"a": 1}, 10)
    told, lacking = tell(kept, Space(), [hits("i0", "gone", "i1"), hits("i0")], ALL, [1, 1], ROOM)
    assert [[each["id"] for each in one] for one in told] == [["i0", "i1"], ["i0"]]
    assert set(told[0][0]) == {"id", "score", "metadata", "thumbnail", "vector"}
    assert lacking == [0, 0]
    assert kept.read["items"] == 3  # of both requests in one go


def test_nothing_is_read_where_nothing_is_wanted():
    kept = Kept(3, {}, 10)
    told, lacking = tell(kept, Space(), [hits("i0", "i1")], frozenset(), [1], 1)
    assert told == [[{"id": "i0", "score": 1.0}, {"id": "i1", "score": 1.0}]] and lacking == [0]
    assert not kept.read


def test_the_nearest_hits_get_their_thumbnails():
    kept = Kept(1000, {}, 300)
    one = 300 * 4 // 3 + THUMBNAIL_FRAME
    found = [hits(*kept.ids[:500]), hits(*kept.ids[499::-1])]
    told, lacking = tell(kept, None, found, frozenset({"thumbnail"}), [2], 100 * one)
    shown = [["thumbnail" in each for each in one] for one in told]
    # Every item is told twice, so there is room for 50 of them: 25 of each query's nearest.
    assert shown[0] == [True] * 25 + [False] * 450 + [True] * 25 == shown[1]
    assert lacking == [450, 450]
    assert kept.read["thumbnails"] == telling.READ_AT_ONCE  # not those for which there is no room


def test_too_much_metadata_is_refused_before_all_of_it_is_read():
    text = {"text": "x" * 1000}
    kept = Kept(5000, text, None)
    most = 1000 * len(json.dumps(text))
    assert len(extras_of(kept, None, Counter(kept.ids[:990]), frozenset(("metadata",)), most).of)
    kept.read.clear()
    with pytest.raises(InvalidInput, match="max_answer_bytes"):
        extras_of(kept, None, Counter(kept.ids), frozenset(("metadata",)), most)
    assert kept.read["items"] < 1500 and kept.widest <= telling.READ_AT_ONCE


def test_too_many_numbers_are_refused_before_anything_is_read():
    kept = Kept(100, {}, None)
    most = 50 * Space.dim * NUMBER_BYTES
    wanted = frozenset(("vector",))
    assert len(extras_of(kept, Space(), Counter(kept.ids[:50]), wanted, most).of) == 50
    kept.read.clear()
    with pytest.raises(InvalidInput, match="max_answer_bytes"):
        extras_of(kept, Space(), Counter(kept.ids[:51]), wanted, most)
    assert not kept.read


def test_one_request_too_many_harms_no_other():
    kept = Kept(100, {"text": "x" * 1000}, None)
    broken = NotFound("no such item")
    found = [hits("i0"), hits(*kept.ids), broken, hits("i1")]
    told, lacking = tell(kept, None, found, frozenset({"metadata"}), [1, 2, 1], 5000)
    assert told[0][0]["id"] == "i0" and told[3][0]["id"] == "i1"
    assert isinstance(told[1], InvalidInput) and told[2] is broken
    assert lacking == [0, 0, 0, 0]


def test_a_long_picture_is_nobodys_thumbnail():
    kept = Kept(2, {}, None)
    assert thumbnails_of(kept, ["i0"]) == [b"p"]
    assert thumbnails_of(kept, ["i0"], 10) == [None]
    assert thumbnails_of(kept, ["i0"], None) == [b"p"]


def test_answers_say_what_they_had_no_room_for(tmp_path: Path):
    (tmp_path / "models").mkdir()
    picture = {"b64": base64.b64encode(png(1)).decode()}
    items = [
        {"id": f"i{n}", "vector": [1, n], "image": picture, "metadata": {"text": "x" * 500}}
        for n in range(4)
    ]
    room = int(2.5 * (len(png(1)) * 4 // 3 + THUMBNAIL_FRAME))
    settings = settings_of(tmp_path / "models", tmp_path / "kept", max_answer_bytes=room)
    with (
        running_server(settings) as server,
        httpx.Client(base_url=server.url, timeout=200.0) as client,
    ):
        client.post("/collections", json={"name": "c", "model": None})
        assert client.post("/collections/c/items", json={"items": items}).status_code == 200
        query = {"vector": [1, 0], "return": ["thumbnail"]}
        told = client.post("/similar", json=query).json()
        assert ["thumbnail" in hit for hit in told["results"][0]["hits"]] == [True] * 2 + [
            False
        ] * 2
        assert told["thumbnails_left_out"] == 2
        assert "thumbnails_left_out" not in client.post("/similar", json={**query, "k": 2}).json()
        told = client.get("/collections/c/map?return=thumbnail").json()
        assert told["thumbnails_left_out"] == 2 and len(told["items"]) == 4
        count = room // (NUMBER_BYTES * 2) + 1
        more = [{"id": f"m{n}", "vector": [1, n]} for n in range(count)]
        assert client.post("/collections/c/items", json={"items": more[:32]}).status_code == 200
        for start in range(32, count, 32):
            client.post("/collections/c/items", json={"items": more[start : start + 32]})
        refused = client.post("/similar", json={**query, "k": count, "return": ["vector"]})
        assert refused.status_code == 422 and refused.json()["field"] == "return"
