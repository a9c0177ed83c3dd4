"""`POST /similar` against plain numpy."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest

from tests.server.similarity.nets import DIM, png, vector_of

COUNT = 30


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def pets(server):
    """A collection of thirty pictures, ids p0 to p29, whose metadata says even or odd."""
    import httpx

    with httpx.Client(base_url=server.url, timeout=200.0) as client:
        assert client.post("/collections", json={"name": "pets"}).status_code == 201
        items = [
            {
                "id": f"p{n}",
                "image": {"b64": b64(png(n))},
                "metadata": {"parity": ["even", "odd"][n % 2], "n": n},
            }
            for n in range(COUNT)
        ]
        answer = client.post("/collections/pets/items", json={"items": items})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert (told["added"], told["failed"], told["errors"]) == (COUNT, 0, [])
        assert told["ids"] == [f"p{n}" for n in range(COUNT)]
    return np.stack([vector_of(png(n)) for n in range(COUNT)])


def expected(vectors, query, k=10, among=range(COUNT), skip=()):
    scores = vectors @ (query / np.linalg.norm(query))
    order = [n for n in np.argsort(-scores, kind="stable") if n in among and n not in skip]
    return [(f"p{n}", float(scores[n])) for n in order[:k]]


def check(result, wanted):
    assert [hit["id"] for hit in result["hits"]] == [id for id, _ in wanted]
    got = [hit["score"] for hit in result["hits"]]
    np.testing.assert_allclose(got, [score for _, score in wanted], atol=1e-4)


def test_a_picture(client, pets):
    data = png(100)
    answer = client.post(
        "/similar?collection=pets&k=5", content=data, headers={"content-type": "image/png"}
    )
    assert answer.status_code == 200, answer.text
    told = answer.json()
    check(told["results"][0], expected(pets, vector_of(data), 5))
    assert (told["collection"], told["model"], told["version"]) == ("pets", "eyes", "1")
    assert told["space"].startswith("eyes@1:") and told["missing"] == 0
    hit = told["results"][0]["hits"][0]
    assert hit["metadata"]["n"] == int(hit["id"][1:])
    timing = answer.headers["server-timing"]
    assert all(f"{phase};dur=" in timing for phase in ("decode", "compute", "index", "fetch"))


def test_an_item_without_itself(client, pets):
    answer = client.post("/collections/pets/similar", json={"id": "p3", "k": 4})
    check(answer.json()["results"][0], expected(pets, pets[3], 4, skip=(3,)))
    answer = client.post("/collections/pets/similar", json={"id": "p3", "include_self": True})
    assert answer.json()["results"][0]["hits"][0]["id"] == "p3"


def test_a_vector(client, pets):
    query = np.arange(DIM, dtype=np.float32)
    body = {"collection": "pets", "vector": query.tolist(), "k": 3, "return": []}
    told = client.post("/similar", json=body).json()
    check(told["results"][0], expected(pets, query, 3))
    assert set(told["results"][0]["hits"][0]) == {"id", "score"}
    packed = {"b64": b64(query.astype("<f4").tobytes())}
    again = client.post("/similar", json=body | {"vector": packed}).json()
    assert again["results"] == told["results"]


def test_several_queries_and_one_that_is_broken(client, pets):
    queries = [
        {"image": {"b64": b64(png(200))}},
        {"id": "p1"},
        {"vector": [1.0, 2.0]},
        {"image": {"b64": b64(b"no picture")}},
        {"id": "nobody"},
        {"id": "p2"},
        {"vector": [1.0] * DIM},
    ]
    answer = client.post("/collections/pets/similar", json={"queries": queries, "k": 3})
    assert answer.status_code == 200
    results = answer.json()["results"]
    check(results[0], expected(pets, vector_of(png(200)), 3))
    check(results[1], expected(pets, pets[1], 3, skip=(1,)))
    assert results[2]["code"] == "invalid_input" and "6 numbers" in results[2]["error"]
    assert results[3]["code"] == "unsupported_media"
    assert results[4]["code"] == "not_found"
    check(results[5], expected(pets, pets[2], 3, skip=(2,)))
    check(results[6], expected(pets, np.ones(DIM, np.float32), 3))


def test_when_every_query_fails_the_request_has(client, pets):
    answer = client.post("/collections/pets/similar", json={"id": "nobody"})
    assert answer.status_code == 404 and answer.json()["code"] == "not_found"


def test_an_id_in_the_query_is_for_requests_that_look_for_nothing_else(client, pets):
    path = "/collections/pets/similar?id=p3"
    assert client.post(path).json()["results"][0]["hits"][0]["id"] != "p3"
    raw = {"content": png(1), "headers": {"content-type": "image/png"}}
    for body in ({"json": {"vector": [1.0] * DIM}}, {"json": {"id": "p1"}}, raw):
        answer = client.post(path, **body)
        assert answer.status_code == 422 and answer.json()["field"] == "id", answer.text


def test_filter_offset_and_least_score(client, pets):
    query = np.ones(DIM, np.float32)
    odd = [n for n in range(COUNT) if n % 2]
    body = {"vector": query.tolist(), "k": 4, "filter": {"parity": "odd"}}
    wanted = expected(pets, query, 30, among=odd)
    check(client.post("/collections/pets/similar", json=body).json()["results"][0], wanted[:4])
    paged = client.post("/collections/pets/similar", json=body | {"offset": 4}).json()
    check(paged["results"][0], wanted[4:8])
    least = wanted[2][1] - 1e-3
    few = client.post("/collections/pets/similar", json=body | {"min_score": least}).json()
    check(few["results"][0], [each for each in wanted[:4] if each[1] >= least])
    by_id = {
        "queries": [{"id": "p1"}, {"id": "p3"}],
        "k": 3,
        "offset": 2,
        "filter": {"n": {"$lt": 20}},
    }
    told = client.post("/collections/pets/similar", json=by_id).json()
    for n, result in zip((1, 3), told["results"], strict=True):
        check(result, expected(pets, pets[n], 20, among=range(20), skip=(n,))[2:5])


def test_everything_that_can_come_with_a_hit(client, pets):
    body = {"id": "p0", "k": 2, "return": ["metadata", "thumbnail", "vector"], "include_self": True}
    hits = client.post("/collections/pets/similar", json=body).json()["results"][0]["hits"]
    assert hits[0]["id"] == "p0" and hits[0]["thumbnail"]["type"] == "image/png"
    assert base64.b64decode(hits[0]["thumbnail"]["b64"]) == png(0)
    np.testing.assert_allclose(hits[0]["vector"], pets[0], atol=1e-4)


def test_a_form(client, pets):
    files = [("file", ("a.png", png(5))), ("file", ("b.png", png(6)))]
    data = {"k": "1", "filter": json.dumps({"n": {"$gte": 0}}), "return": "metadata"}
    told = client.post("/collections/pets/similar", files=files, data=data).json()
    assert [result["hits"][0]["id"] for result in told["results"]] == ["p5", "p6"]


def test_an_id_in_the_query(client, pets):
    told = client.post("/collections/pets/similar?id=p9&k=2&include_self=true").json()
    assert told["results"][0]["hits"][0]["id"] == "p9"


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"k": 3}, 422, "image"),
        ({"id": "p1", "vector": [1]}, 422, "vector"),
        ({"id": "p1", "k": 0}, 422, "k"),
        ({"id": "p1", "k": True}, 422, "k"),
        ({"id": "p1", "k": 10_001}, 422, "k"),
        ({"id": "p1", "offset": -1}, 422, "offset"),
        ({"id": "p1", "min_score": "high"}, 422, "min_score"),
        ({"id": "p1", "min_score": 10**400}, 400, None),
        ({"id": "p1", "filter": {"$nonsense": 1}}, 422, "filter.$nonsense"),
        ({"id": "p1", "return": ["everything"]}, 422, "return"),
        ({"id": "p1", "exact": "maybe"}, 422, "exact"),
        ({"id": "p1", "what": 1}, 422, "what"),
        ({"id": 7}, 422, "id"),
        ({"id": ""}, 422, "id"),
        ({"vector": []}, 422, "vector"),
        ({"vector": [1, "2"]}, 422, "vector"),
        ({"vector": [True] * DIM}, 422, "vector"),
        ({"vector": [0.0] * DIM}, 422, "vector"),
        ({"vector": [1e39] * DIM}, 422, "vector"),
        ({"vector": {"b64": "AAA="}}, 422, "vector.b64"),
        ({"image": "AAAA"}, 422, "image"),
        ({"image": {"b64": "?"}}, 422, "image.b64"),
        ({"queries": {}}, 422, "queries"),
        ({"queries": []}, 422, "image"),
        ({"queries": [{"id": "p1"}] * 33}, 422, "queries"),
        ({"queries": [{"id": "p1"}] * 30, "k": 4000}, 422, "queries"),
        ({"queries": [{"id": "p1"}] * 30, "k": 400, "return": ["vector"]}, 422, "queries"),
        ({"id": "p1", "version": "7"}, 404, None),
        ({"id": "p1", "label": "best"}, 404, None),
        ({"id": "p1", "collection": 5}, 422, "collection"),
    ],
)
def test_bad_searches(client, pets, body, status, field):
    answer = client.post("/collections/pets/similar", json=body)
    assert answer.status_code == status, answer.text
    assert answer.json().get("field") == field
    assert "error" in answer.json()


def test_no_such_collection(client, pets):
    answer = client.post("/similar?collection=none", json={"id": "p1"})
    assert answer.status_code == 404 and "pets" in answer.json()["error"]


def test_the_wrong_content(client, pets):
    answer = client.post(
        "/collections/pets/similar", content=b"x", headers={"content-type": "video/mp4"}
    )
    assert answer.status_code == 415
    answer = client.post(
        "/collections/pets/similar", content=b"", headers={"content-type": "image/png"}
    )
    assert answer.status_code == 422


def test_searches_are_counted(client, pets):
    for query, status in (("p3", 200), ("nobody", 404)):
        answer = client.post("/collections/pets/similar", json={"id": query})
        assert answer.status_code == status, answer.text
    text = client.get("/metrics").text
    assert 'millrace_collection_searches_total{code="ok",collection="pets"}' in text
    assert 'millrace_collection_searches_total{code="not_found",collection="pets"}' in text
    assert (
        'millrace_collection_search_phase_duration_seconds_count{collection="pets",phase="index"}'
        in text
    )
