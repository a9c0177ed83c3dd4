"""Classifiers from pictures, over HTTP."""

from __future__ import annotations

import base64
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator

import httpx
import pytest

from server.settings import Settings
from tests.server.learning.lessons import picture
from tests.server.running import RunningServer, running_server
from tests.server.similarity.nets import add_eyes


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("learning")
    add_eyes(root, dim=24)
    settings = Settings(
        repository=root,
        collections=str(root.parent / "learning-collections"),
        device="reference",
        isolate=False,
        watch=False,
        settle_s=0.0,
        worker_threads=2,
        admin_token="secret",
        max_body_bytes=1 << 20,
    )
    with running_server(settings) as running:
        yield running


@pytest.fixture
def client(server: RunningServer) -> Iterator[httpx.Client]:
    headers = {"Authorization": "Bearer secret"}
    with httpx.Client(base_url=server.url, timeout=120.0, headers=headers) as session:
        yield session


def pictures(classes: int = 2, each: int = 3, start: int = 0) -> dict[str, bytes]:
    return {
        f"kind{kind}/{seed}.png": picture(kind, seed)
        for kind in range(classes)
        for seed in range(start, start + each)
    }


def zipped(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(f"pictures/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return file.getvalue()


def item(name: str, data: bytes) -> dict[str, object]:
    return {
        "image": {"b64": base64.b64encode(data).decode()},
        "label": name.partition("/")[0],
        "name": name,
    }


def post(client: httpx.Client, base: str = "eyes", **request: object) -> httpx.Response:
    kind = request.pop("kind", None)
    headers = {"Content-Type": kind} if kind else {}
    return client.post(
        f"/models/{base}/heads", headers=headers | request.pop("more", {}), **request
    )


def test_a_zip_becomes_a_served_model(client: httpx.Client):
    files = {**pictures(), "kind0/notes.txt": b"ignored", ".DS_Store": b"x"}
    reply = post(client, params={"name": "zipped"}, content=zipped(files), kind="application/zip")
    assert reply.status_code == 201, reply.text
    body = reply.json()
    assert (body["model"], body["version"], body["loaded"]) == ("zipped", "1", True)
    assert body["report"]["ignored"] == ["kind0/notes.txt"]
    assert set(body["seconds"]) == {"features", "fit", "write", "publish", "load"}
    found = client.post(
        body["urls"]["classify"], content=picture(1, 9), headers={"Content-Type": "image/png"}
    )
    assert found.json()["results"][0]["predictions"][0]["label"] == "kind1"
    report = client.get(body["urls"]["report"]).json()
    assert report["labels"] == ["kind0", "kind1"] and report["pictures"] == 6
    drawn = client.get(body["urls"]["picture"])
    assert drawn.headers["content-type"] == "image/png" and drawn.content.startswith(b"\x89PNG")
    [version] = client.get("/models/zipped").json()["versions"]
    assert version["state"] == "READY"


def test_steps_are_told_and_more_pictures_added(client: httpx.Client):
    lines = {"Accept": "application/x-ndjson"}
    request = {"params": {"name": "told"}, "kind": "application/gzip", "more": lines}
    reply = post(client, content=tarred(pictures()), **request)
    told = [json.loads(line) for line in reply.text.splitlines()]
    assert [each["event"] for each in told[:-1]] == ["step"] * (len(told) - 1)
    assert {"stage": "embedding", "done": 6, "total": 6, "event": "step"} in told
    assert told[-1]["event"] == "done" and told[-1]["version"] == "1"
    reply = post(
        client,
        "told",
        content=zipped(pictures(3, 2, start=20)),
        kind="application/zip",
        more={"Accept": "text/event-stream"},
    )
    last = reply.text.strip().split("\n\n")[-1]
    assert last.startswith("event: done\n")
    end = json.loads(last.partition("data: ")[2])
    assert end["version"] == "2" and end["report"]["labels"] == ["kind0", "kind1", "kind2"]
    assert end["report"]["pictures"] == 12


def test_a_form_with_a_field_per_class(client: httpx.Client):
    files = [
        (name.partition("/")[0], (name, data, "image/png")) for name, data in pictures(3).items()
    ]
    data = {"name": "formed", "method": "svm", "publish": "false"}
    body = post(client, files=files, data=data).json()
    assert body["version"] is None and body["report"]["method"] == "svm"
    assert "urls" not in body and body["report"]["pictures"] == 9


def test_json_items(client: httpx.Client):
    items = [item(name, data) for name, data in pictures().items()]
    reply = post(client, json={"name": "items", "publish": False, "items": items})
    assert reply.status_code == 200 and reply.json()["report"]["accuracy"] > 0


def test_a_collection_with_labels(client: httpx.Client):
    client.post("/collections", json={"name": "shelf", "model": "eyes"}).raise_for_status()
    items = [
        {**item(name, data), "id": name, "metadata": {"shop": {"kind": name.partition("/")[0]}}}
        for name, data in pictures(2, 4).items()
    ]
    entries = [{key: each[key] for key in ("id", "image", "metadata")} for each in items]
    entries.append({"id": "other", "image": items[0]["image"]})
    client.post("/collections/shelf/items", json={"items": entries}).raise_for_status()
    order = {"name": "shelved", "collection": "shelf", "label_field": "metadata.shop.kind"}
    body = post(client, json=order).json()
    assert body["loaded"] and body["report"]["pictures"] == 8
    assert body["report"]["unlabelled"] == ["other"]
    labels = {name: "even" if n % 2 else "odd" for n, name in enumerate(pictures(2, 4))}
    order = {"name": "parity", "collection": "shelf", "labels": labels, "publish": False}
    assert post(client, json=order).json()["report"]["labels"] == ["even", "odd"]
    wrong = {**order, "labels": {"nothing": "a", "kind0/0.png": "b"}}
    assert "no item 'nothing'" in post(client, json=wrong).json()["error"]


ZIP = {"kind": "application/zip", "params": {"name": "x"}}


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"json": {"items": []}}, 422, "`name` is missing"),
        ({"json": {"name": "x"}}, 422, "there are no pictures"),
        ({"json": {"name": "x", "colour": 1}}, 422, "unknown option 'colour'"),
        ({"json": {"name": "x", "publish": "maybe"}}, 422, "`publish` must be true or false"),
        ({"json": {"name": 1.5}}, 422, "`name` must be a string"),
        ({"json": {"name": "x", "items": {}}}, 422, "`items` must be a list"),
        ({"json": {"name": "x", "items": [1]}}, 422, r"`items[0]` must be an object"),
        ({"json": {"name": "x", "items": [{"image": {}}]}}, 422, "`items[0].label` must be"),
        ({"json": {"name": "x", "items": [{"label": "a", "name": 3}]}}, 422, "items[0].name"),
        ({"json": {"name": "x", "items": [{"label": "a"}]}}, 422, "items[0].image"),
        ({"json": {"name": "x", "labels": {}}}, 422, "goes with a `collection`"),
        ({"json": {"name": "x", "collection": "c"}}, 422, "one of the two"),
        ({"json": {"name": "x", "collection": "c", "items": []}}, 422, "not both"),
        ({"json": {"name": "x", "collection": 3, "labels": {}}}, 422, "a collection's name"),
        ({"json": {"name": "x", "collection": "c", "labels": [1]}}, 422, "an object of item ids"),
        ({"json": {"name": "x", "collection": "c", "label_field": 1}}, 422, "a metadata key"),
        ({"json": {"name": "x", "collection": "none", "label_field": "k"}}, 404, "none"),
        ({"content": b"[]", "kind": "application/json"}, 400, "JSON object"),
        ({"content": b"x", "kind": "text/plain"}, 415, "is not read here"),
        ({"content": b"x", "kind": "application/zip", "params": {"name": "x"}}, 422, "no archive"),
        ({"content": b"PK\x03\x04", **ZIP}, 422, "not a readable zip"),
        ({"content": zipped({"a.png": b"x"}), **ZIP}, 422, "one folder per"),
        # What is wrong whatever the pictures are is said before they are read.
        ({"content": b"x", "kind": "application/zip"}, 422, "`name` is missing"),
        ({"content": b"x", "kind": ZIP["kind"], "params": {"name": "eyes"}}, 409, "not learned"),
        ({"content": b"x", "kind": ZIP["kind"], "params": {"name": "a/b"}}, 422, "a/b"),
        (
            {"content": b"x", "kind": ZIP["kind"], "params": {"name": "x", "method": "x"}},
            422,
            "is not known",
        ),
        ({"content": b"", "params": {"publish": "2"}}, 422, "`publish` must be"),
    ],
)
def test_what_cannot_be_read_is_told(client, request_, status: int, words: str):
    reply = post(client, **request_)
    assert reply.status_code == status, reply.text
    assert words in reply.json()["error"]


def test_wrong_lessons_are_told(client: httpx.Client):
    def error(files: dict[str, bytes]) -> str:
        options = {"params": {"name": "wrong"}, "kind": "application/zip"}
        reply = post(client, content=zipped(files), **options)
        assert reply.status_code == 422
        return str(reply.json()["error"])

    files = pictures()
    one = {name: data for name, data in files.items() if name.startswith("kind0")}
    assert "all pictures are of one class, 'kind0'" in error(
        {f"top/{n}": d for n, d in one.items()}
    )
    assert "of 'kind2' there is one picture only" in error({**files, "kind2/0.png": picture(2)})
    both = error({**files, "kind1/same.png": picture(0, 0)})
    assert "'kind0/0.png' (kind0) is 'kind1/same.png' (kind1)" in both
    assert "'kind1/broken.png'" in error({**files, "kind1/broken.png": b"\x89PNG..."})


def test_only_admins_learn(server: RunningServer):
    with httpx.Client(base_url=server.url, timeout=200.0) as stranger:
        assert post(stranger, json={"name": "x"}).status_code == 401


def test_reports_that_are_not_there(client: httpx.Client):
    assert client.get("/models/eyes/versions/1/report").status_code == 404
    assert "not learned from pictures" in client.get("/models/eyes/versions/1/report.png").text
    assert client.get("/models/eyes/versions/9/report").json()["code"] == "version_not_found"
    assert client.get("/models/none/versions/1/report").json()["code"] == "model_not_found"


def test_an_archive_that_does_not_fit_on_the_disk(client, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("server.handlers.heads.archive.unpack", full)
    reply = post(client, content=zipped({"a/1.png": b"x"}), **ZIP)
    assert (reply.status_code, reply.json()["code"]) == (503, "store_unavailable")
    assert "cannot be unpacked in" in reply.json()["error"]
    assert "No space left" in reply.json()["error"]


def test_a_base_that_is_not_there_is_said_before_the_pictures_are_read(client):
    reply = post(client, "nobody", content=b"no archive", **ZIP)
    assert (reply.status_code, reply.json()["code"]) == (404, "model_not_found")


def test_pictures_of_one_more_class(client):
    """A folder that stands alone is the class, and not something around the classes."""
    first = {f"around/{name}": data for name, data in pictures(2, 4).items()}
    learned = post(client, content=zipped(first), params={"name": "grows"}, kind=ZIP["kind"])
    assert learned.json()["report"]["labels"] == ["kind0", "kind1"]
    third = {name: data for name, data in pictures(3, 4).items() if name.startswith("kind2")}
    third["kind2/notes.txt"] = b"notes"
    more = post(client, "grows", content=zipped(third), kind=ZIP["kind"]).json()
    assert more["version"] == "2" and more["report"]["labels"] == ["kind0", "kind1", "kind2"]
    alone = post(client, content=zipped(third), params={"name": "alone"}, kind=ZIP["kind"])
    assert "all pictures are of one class, 'kind2'" in alone.json()["error"]
