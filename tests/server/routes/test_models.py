from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from server.settings import Settings
from tests.server.running import RunningServer, running_server
from tests.server.zoo import add_digits, add_echo


@pytest.fixture
def own(tmp_path: Path) -> Iterator[RunningServer]:
    """A server of one's own, to change its models."""
    root = tmp_path / "models"
    add_digits(root, "1")
    settings = Settings(
        repository=root, isolate=False, watch=False, settle_s=0.0, max_upload_bytes=100_000
    )
    with running_server(settings) as running:
        yield running


@pytest.fixture
def admin(own: RunningServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=own.url, timeout=200.0) as session:
        yield session


def onnx_bytes(tmp_path: Path, version: str) -> bytes:
    return (add_digits(tmp_path / "elsewhere", version) / "model.onnx").read_bytes()


def serving(client: httpx.Client) -> str:
    return str(client.get("/models/digits").json()["default"])


def test_status(client: httpx.Client) -> None:
    models = {model["name"]: model for model in client.get("/models").json()["models"]}
    assert models["digits"]["default"] == "2"
    assert models["digits"]["task"] == "classification"
    assert models["pair"]["task"] == "tensors"
    [broken] = models["broken"]["versions"]
    assert broken["state"] == "FAILED"
    assert broken["reason"]
    missing = client.get("/models/nope")
    assert (missing.status_code, missing.json()["code"]) == (404, "model_not_found")


def test_publish_promote_rollback_label_delete(admin: httpx.Client, tmp_path: Path) -> None:
    pushed = admin.put("/models/digits/versions/2", content=onnx_bytes(tmp_path, "2"))
    assert pushed.status_code == 201, pushed.text
    assert pushed.json() == {"model": "digits", "version": "2", "loaded": True}
    assert serving(admin) == "2"
    back = admin.post("/models/digits/rollback")
    assert (back.status_code, back.json()["default"]) == (200, "1"), back.text
    assert admin.post("/models/digits/promote", json={"version": 2}).json()["default"] == "2"
    labelled = admin.put("/models/digits/labels/stable", json={"version": "1"})
    assert labelled.json()["labels"] == {"stable": "1"}, labelled.text
    body = {"label": "stable", "inputs": [{"tensors": {"input": [[[0.0] * 28] * 28]}}]}
    assert admin.post("/predict", json=body).json()["version"] == "1"
    assert admin.delete("/models/digits/labels/stable").json()["labels"] == {}
    deleted = admin.delete("/models/digits/versions/1")
    assert (deleted.status_code, deleted.json()["deleted"]) == (200, True), deleted.text
    assert admin.delete("/models/digits/versions/1").status_code == 404
    again = admin.put("/models/digits/versions/2", content=onnx_bytes(tmp_path, "3"))
    assert (again.status_code, again.json()["code"]) == (409, "conflict")


def test_publish_a_tar_without_a_version(admin: httpx.Client, tmp_path: Path) -> None:
    folder = add_digits(tmp_path / "elsewhere", "5")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    pushed = admin.post("/models/digits/versions?wait=false", content=buffer.getvalue())
    assert (pushed.status_code, pushed.json()["version"]) == (202, "2"), pushed.text
    assert admin.post("/models/digits/load", json={"version": "2"}).status_code == 200
    assert serving(admin) == "2"


def test_load_and_unload(admin: httpx.Client) -> None:
    assert admin.post("/models/digits/unload").json()["default"] is None
    assert admin.get("/v2/models/digits/ready").status_code == 503
    assert admin.post("/models/digits/load").json()["default"] == "1"
    assert admin.post("/models/digits/load?version=9").status_code == 404
    assert admin.post("/models/digits/load", json={"version": ["1"]}).status_code == 422
    assert admin.post("/models/digits/promote").status_code == 422
    assert admin.post("/models/digits/promote?version=7").status_code == 404
    assert admin.post("/models/digits/rollback").status_code == 409
    assert admin.post("/models/nope/load").status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        "/models/digits/versions/..%2F..%2Fx",
        "/models/%2e%2e/versions/1",
        "/models/.hidden/versions/1",
        "/models/a%00b/versions/1",
        "/models/digits/versions/a%00",
        "/models/digits/versions/a%5Cb",
        "/models/digits/versions/" + "9" * 300,
    ],
)
def test_names_that_could_leave_the_repository(
    admin: httpx.Client, own: RunningServer, path: str
) -> None:
    before = sorted(p for p in own.settings.repository.parent.rglob("*"))
    answer = admin.put(path, content=b"x")
    assert answer.status_code in (404, 422), answer.text
    assert set(answer.json()) >= {"error", "code"}
    assert sorted(p for p in own.settings.repository.parent.rglob("*")) == before


def test_uploads_are_bounded_and_checked(admin: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(300):
            yield b"x" * 1000

    target = "/models/digits/versions/2"
    declared = admin.put(target, content=b"x" * 200_000)
    assert (declared.status_code, declared.json()["code"]) == (413, "payload_too_large")
    streamed = admin.put(target, content=chunks())
    assert (streamed.status_code, streamed.json()["code"]) == (413, "payload_too_large")
    broken = admin.put(target, content=b"not a model")
    assert broken.status_code == 422, broken.text
    assert "version '2' stays in the repository until it is deleted" in broken.json()["error"]
    assert serving(admin) == "1"
    assert admin.put(f"{target}?wait=maybe", content=b"x").status_code == 422


STATE_CHANGING = [
    ("POST", "/models/digits/load"),
    ("POST", "/models/digits/unload"),
    ("POST", "/models/digits/promote"),
    ("POST", "/models/digits/rollback"),
    ("PUT", "/models/digits/labels/x"),
    ("DELETE", "/models/digits/labels/x"),
    ("POST", "/models/digits/versions"),
    ("PUT", "/models/digits/versions/9"),
    ("DELETE", "/models/digits/versions/1"),
    ("POST", "/v2/repository/models/digits/load"),
    ("POST", "/v2/repository/models/digits/unload"),
]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("locked")
    add_echo(root, "digits")
    settings = Settings(
        repository=root,
        isolate=False,
        watch=False,
        settle_s=0.0,
        admin_token="s3cret",
        cors_origins=("https://app.example",),
    )
    with running_server(settings) as running:
        yield running


@pytest.mark.parametrize(("method", "path"), STATE_CHANGING)
def test_every_changing_route_needs_the_token(
    locked: RunningServer, method: str, path: str
) -> None:
    with httpx.Client(base_url=locked.url, timeout=200.0) as session:
        for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic s3cret"}):
            answer = session.request(method, path, headers=header)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), header
            assert answer.headers["www-authenticate"].startswith("Bearer")
        assert session.get("/models/digits").json()["default"] == "1"


def test_the_token_opens(locked: RunningServer) -> None:
    headers = {"Authorization": "bearer s3cret"}
    with httpx.Client(base_url=locked.url, headers=headers, timeout=200.0) as session:
        assert session.post("/models/digits/load").status_code == 200


def test_reading_needs_no_token(locked: RunningServer) -> None:
    with httpx.Client(base_url=locked.url, timeout=200.0) as session:
        for path in ("/", "/models", "/v2/health/live", "/v2/health/ready", "/metrics", "/docs"):
            assert session.get(path).status_code == 200, path


def test_cors(locked: RunningServer) -> None:
    body = {"inputs": [{"tensors": {"x": [1.0, 2.0]}}]}
    with httpx.Client(base_url=locked.url, timeout=200.0) as session:
        mine = session.post("/predict", json=body, headers={"Origin": "https://app.example"})
        assert mine.headers["access-control-allow-origin"] == "https://app.example"
        other = session.post("/predict", json=body, headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
        preflight = session.options(
            "/predict",
            headers={"Origin": "https://app.example", "Access-Control-Request-Method": "POST"},
        )
        assert preflight.status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Forwarded-For": "203.0.113.9"},
        {"Forwarded": "for=203.0.113.9"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "evil.example"},
    ],
)
def test_without_a_token_only_this_machine_itself(
    client: httpx.Client, headers: dict[str, str]
) -> None:
    answer = client.post("/models/echo/load", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), answer.text
    assert "MILLRACE_ADMIN_TOKEN" in answer.json()["error"]
