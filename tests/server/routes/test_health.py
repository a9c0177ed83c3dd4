from __future__ import annotations

import httpx
import pytest
from pydantic import ValidationError

from server.schemas import PredictAnswer, PredictBody
from tests.server.running import RunningServer


def test_probes(client: httpx.Client) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.head("/v2/health/ready").status_code == 200
    assert client.head("/v2/health/ready").content == b""


def test_readiness_follows_the_shutdown(server: RunningServer, client: httpx.Client) -> None:
    server.app.runtime.draining = True
    try:
        answer = client.get("/v2/health/ready")
        assert (answer.status_code, answer.json()) == (503, {"ready": False})
        assert client.get("/v2/health/live").status_code == 200
    finally:
        server.app.runtime.draining = False


def test_index_names_the_models(client: httpx.Client) -> None:
    body = client.get("/").json()
    assert body["name"] == "millrace"
    assert body["models"]["digits"] == "2"
    assert body["models"]["broken"] is None


def test_browsers_get_the_console_and_programs_json(client: httpx.Client) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    page = client.get("/", headers=browser)
    assert page.status_code == 200 and page.text.startswith("<!doctype html>")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for accept in ("*/*", "application/json", ""):
        answer = client.get("/", headers={"Accept": accept})
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["vary"] == "Accept"


def test_index_names_every_door(client: httpx.Client) -> None:
    named = set(client.get("/").json()["routes"])
    paths = client.get("/openapi.json").json()["paths"]
    doors = {"/" + path.split("/")[1] for path in paths}
    assert named <= doors
    assert doors - named <= {"/", "/docs", "/openapi.json", "/frontend"}


def test_metrics(client: httpx.Client) -> None:
    client.post("/predict", json={"model": "echo", "inputs": [{"tensors": {"x": [1.0, 2.0]}}]})
    client.post("/predict", content=b"{")
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text
    for phase in ("parse", "preprocess", "queue", "batch", "compute", "postprocess", "serialize"):
        assert f'phase="{phase}"' in text, phase
    assert 'model="echo"' in text
    assert 'code="malformed_request"' in text


def test_unknown_paths_and_verbs(client: httpx.Client) -> None:
    for path in ("/nope", "/v3", "/predict/", "/%00", "/..%2f..%2fetc/passwd", "/v2/models/a/b/c"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    for method, path in (("GET", "/predict"), ("DELETE", "/models"), ("PATCH", "/v2")):
        answer = client.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (405, "method_not_allowed"), path
        assert answer.headers["allow"]


def test_openapi_has_every_route(server: RunningServer, client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    mounted = {route.path.replace(":path}", "}") for route in server.app.router.routes}
    assert set(document["paths"]) == mounted
    assert {"/predict", "/v2/models/{model}/infer", "/v1/models/{model}:predict"} <= mounted
    assert "PredictBody" in document["components"]["schemas"]
    operations = [op for path in document["paths"].values() for op in path.values()]
    ids = [operation["operationId"] for operation in operations]
    assert len(set(ids)) == len(ids)
    guarded = document["paths"]["/models/{model}/load"]["post"]
    assert guarded["security"] == [{"admin": []}]
    references = _references(document)
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references <= known
    page = client.get("/docs")
    assert "text/html" in page.headers["content-type"]
    assert "/openapi.json" in page.text


def _references(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(_references, value.values()))
    if isinstance(value, list):
        return set().union(*map(_references, value))
    return set()


@pytest.mark.parametrize(
    "body",
    [
        {"model": "echo", "inputs": [{"tensors": {"x": [1.0, 2.0]}}]},
        {"model": "echo", "inputs": []},
        {"model": "echo", "inputs": [{"tensors": {"x": [1.0, 2.0]}}], "more": 1},
        {"model": "echo", "inputs": [{"tensors": {"x": [1.0, 2.0]}}], "priority": 10},
        {"model": "echo", "inputs": [{"tensors": {"x": [1.0, 2.0]}}], "timeout_s": 0},
        {"model": "echo", "inputs": [{"tensors": {"x": [1.0, 2.0]}}], "parameters": 3},
    ],
)
def test_what_the_page_says_is_what_the_door_does(
    client: httpx.Client, body: dict[str, object]
) -> None:
    try:
        PredictBody.model_validate(body)
        documented = True
    except ValidationError:
        documented = False
    answer = client.post("/predict", json=body)
    assert answer.is_success == documented, answer.text
    if documented:
        PredictAnswer.model_validate(answer.json())
