from __future__ import annotations

import base64
import io
import json
import re
import socket

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.server.running import RunningServer, until_late, wait_until

ROW = [0.0] * 784
GRID = np.linspace(0, 1, 784, dtype=np.float32).reshape(1, 28, 28)


def png(side: int = 28, value: int = 200) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (side, side), value).save(buffer, "PNG")
    return buffer.getvalue()


GRID_LISTS = GRID.tolist()


def tensors(value: object = GRID_LISTS) -> dict[str, object]:
    return {"tensors": {"input": value}}


def test_tensors_as_json(client: httpx.Client) -> None:
    answer = client.post("/predict", json={"model": "digits", "inputs": [tensors()], "id": "mine"})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["model"], body["version"], body["task"], body["id"]) == (
        "digits",
        "2",
        "classification",
        "mine",
    )
    [result] = body["results"]
    best = result["predictions"]
    assert len(best) == 5
    assert best[0]["label"] == f"digit {best[0]['index']}"
    assert [p["score"] for p in best] == sorted((p["score"] for p in best), reverse=True)


def test_every_answer_says_who_and_how_long(client: httpx.Client) -> None:
    answer = client.post(
        "/predict",
        json={"model": "digits", "inputs": [tensors()]},
        headers={"X-Request-Id": "trace-7"},
    )
    assert answer.headers["x-request-id"] == "trace-7"
    assert answer.json()["id"] == "trace-7"
    phases = dict(
        re.fullmatch(r"(\w+);dur=([\d.]+)", part).groups()  # type: ignore[union-attr]
        for part in answer.headers["server-timing"].split(", ")
    )
    assert set(phases) >= {"parse", "queue", "batch", "compute", "postprocess", "serialize"}
    assert float(phases["total"]) >= float(phases["compute"])
    for path in ("/", "/nope", "/metrics", "/docs"):
        other = client.get(path)
        assert other.headers["server-timing"].startswith("total;dur="), path
        assert other.headers["x-request-id"], path


def test_a_wrong_request_id_is_replaced(client: httpx.Client) -> None:
    answer = client.get("/", headers={"X-Request-Id": "a b"})
    assert answer.headers["x-request-id"] not in ("", "a b")


@pytest.mark.parametrize("parameters", [{"top_k": 2}, {"top_k": "2"}])
def test_parameters(client: httpx.Client, parameters: dict[str, object]) -> None:
    body = {"model": "digits", "inputs": [tensors()], "parameters": parameters}
    assert len(client.post("/predict", json=body).json()["results"][0]["predictions"]) == 2


def test_an_unknown_parameter_is_named(client: httpx.Client) -> None:
    body = {"model": "digits", "inputs": [tensors()], "parameters": {"topk": 2}}
    answer = client.post("/predict", json=body)
    assert answer.status_code == 422
    assert "topk" in answer.json()["error"]
    assert "top_k" in answer.json()["error"]


def test_raw_multipart_and_base64_pictures_agree(client: httpx.Client) -> None:
    data = png()
    raw = client.post("/predict?model=digits", content=data, headers={"Content-Type": "image/png"})
    form = client.post(
        "/predict",
        files=[("file", ("a.png", data, "image/png")), ("file", ("b.png", data, "image/png"))],
        data={"model": "digits", "top_k": "3"},
    )
    encoded = {"image": {"b64": base64.b64encode(data).decode()}}
    url = {"image": {"b64": "data:image/png;base64," + base64.b64encode(data).decode()}}
    inline = client.post("/predict", json={"model": "digits", "inputs": [encoded, url]})
    assert raw.status_code == form.status_code == inline.status_code == 200, (raw.text, form.text)
    assert len(form.json()["results"]) == len(inline.json()["results"]) == 2
    indices = [best["index"] for best in raw.json()["results"][0]["predictions"]]
    for answer, count in ((form, 3), (inline, 5)):
        for result in answer.json()["results"]:
            assert [best["index"] for best in result["predictions"]] == indices[:count]
    assert {"decode", "preprocess"} <= set(re.findall(r"(\w+);", raw.headers["server-timing"]))


def test_a_picture_without_a_content_type_of_its_own(client: httpx.Client) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    assert client.post("/predict?model=digits", content=png(), headers=headers).status_code == 200


def test_a_failed_item_fails_alone(client: httpx.Client) -> None:
    items = [
        tensors(),
        {"image": {"b64": "not base64!"}},
        tensors([1.0, 2.0]),
        {"nothing": 1},
        {"text": "eight"},
        7,
        tensors(),
    ]
    answer = client.post("/predict", json={"model": "digits", "inputs": items})
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [set(result) >= {"error", "code"} for result in results] == [False] + [True] * 5 + [
        False
    ]
    assert results[0]["predictions"][0]["index"] == results[-1]["predictions"][0]["index"]
    assert "inputs[1]" in results[1]["error"]


def test_when_all_items_fail_the_first_error_is_the_answer(client: httpx.Client) -> None:
    items = [{"image": {"b64": "!"}}, tensors([1.0])]
    answer = client.post("/predict", json={"model": "digits", "inputs": items})
    assert answer.status_code == 422
    body = answer.json()
    assert body["code"] == "invalid_input"
    assert body["error"] == body["results"][0]["error"]
    assert len(body["results"]) == 2


def test_many_rows_in_one_item(client: httpx.Client) -> None:
    rows = np.stack([GRID, GRID * 0.5])
    answer = client.post("/predict", json={"model": "digits", "inputs": [tensors(rows.tolist())]})
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["results"][0]["predictions"]) == 2


def test_versions_by_name(client: httpx.Client) -> None:
    body = {"model": "digits", "inputs": [tensors()]}
    assert client.post("/predict", json=body | {"version": 2}).json()["version"] == "2"
    missing = client.post("/predict", json=body | {"version": "9"})
    assert (missing.status_code, missing.json()["code"]) == (404, "version_not_found")
    missing = client.post("/predict", json=body | {"label": "stable"})
    assert (missing.status_code, missing.json()["code"]) == (404, "version_not_found")
    missing = client.post("/predict", json=body | {"model": "dogits"})
    assert (missing.status_code, missing.json()["code"]) == (404, "model_not_found")
    assert "digits" in missing.json()["error"]


def test_the_model_must_be_named_when_several_are_loaded(client: httpx.Client) -> None:
    answer = client.post("/predict", json={"inputs": [tensors()]})
    assert answer.status_code == 422
    assert answer.json()["field"] == "model"
    assert "digits" in answer.json()["expected"]


def test_a_broken_model_says_so(client: httpx.Client) -> None:
    answer = client.post("/predict", json={"model": "broken", "inputs": [tensors()]})
    assert (answer.status_code, answer.json()["code"]) == (503, "model_not_ready")


def test_typed_doors_refuse_other_tasks(client: httpx.Client) -> None:
    row = {"tensors": {"x": [1.0, 0.0, 0.0, 0.0]}}
    embedded = client.post("/embed", json={"model": "features", "inputs": [row]})
    assert embedded.status_code == 200, embedded.text
    assert embedded.json()["task"] == "embedding"
    assert embedded.json()["results"][0]["dim"] == 3
    refused = client.post("/classify", json={"model": "features", "inputs": [row]})
    assert refused.status_code == 422
    assert "/embed" in refused.json()["error"]
    row = {"tensors": {"x": [1.0, 2.0]}}
    bare = client.post("/classify", json={"model": "echo", "inputs": [row]})
    assert 'set task = "classification" in its model.toml' in bare.json()["error"]
    assert client.post("/classify", json={"model": "digits", "inputs": [tensors()]}).is_success


def test_tensors_in_tensors_out(client: httpx.Client) -> None:
    item = {"tensors": {"a": [[1.0, 2.0]], "b": [[3, 4]]}}
    answer = client.post("/predict", json={"model": "pair", "inputs": [item]})
    assert answer.status_code == 200, answer.text
    outputs = answer.json()["results"][0]["outputs"]
    assert outputs["doubled"]["data"] == [2.0, 4.0]
    assert outputs["same"] == {"dtype": "int64", "shape": [1, 2], "data": [3, 4]}


WRONG = [
    (b"{", 400, "malformed_request"),
    (b"", 400, "malformed_request"),
    (b"[1]", 400, "malformed_request"),
    (b"\xff\xfe", 400, "malformed_request"),
    (b"[" * 100_000, 400, "malformed_request"),
    (b'{"inputs": ' + b"[" * 900 + b"]" * 900 + b"}", 422, "invalid_input"),
    (b'{"model": "digits"}', 422, "invalid_input"),
    (b'{"model": "digits", "inputs": {}}', 422, "invalid_input"),
    (b'{"model": "digits", "inputs": []}', 422, "invalid_input"),
    (b'{"model": "digits", "inputs": [1,2,3,4,5,6,7,8,9]}', 422, "invalid_input"),
    (b'{"model": 3, "inputs": [{"text": ""}]}', 422, "invalid_input"),
    (b'{"model": "", "inputs": [{"text": ""}]}', 422, "invalid_input"),
    (b'{"model": "digits", "inputs": [{"text": ""}], "extra": 1}', 422, "invalid_input"),
    (b'{"model": "digits", "inputs": [{"text": ""}], "parameters": 4}', 422, "invalid_input"),
    (b'{"model": "digits", "inputs": [{"text": ""}], "timeout_s": 0}', 422, "invalid_input"),
    (b'{"model": "digits", "inputs": [{"text": ""}], "timeout_s": "x"}', 422, "invalid_input"),
    (b'{"model": "digits", "inputs": [{"text": ""}], "priority": 99}', 422, "invalid_input"),
    (b'{"model": "digits", "inputs": [{"text": ""}], "id": "\\u0000"}', 422, "invalid_input"),
    (b'{"model": "../etc", "inputs": [{"text": ""}]}', 404, "model_not_found"),
    (b'{"model": "a\\u0000b", "inputs": [{"text": ""}]}', 404, "model_not_found"),
    (b'{"model": "digits", "version": "..", "inputs": [{"text": ""}]}', 404, "version_not_found"),
    (b'{"model": "digits", "label": "../x", "inputs": [{"text": ""}]}', 404, "version_not_found"),
]


@pytest.mark.parametrize(("body", "status", "code"), WRONG)
def test_wrong_bodies(client: httpx.Client, body: bytes, status: int, code: str) -> None:
    answer = client.post("/predict", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["error"]
    assert "Traceback" not in answer.text


def test_ragged_and_mistyped_tensors_are_explained(client: httpx.Client) -> None:
    for value in ([[1.0, 2.0], [3.0]], ["a"] * 784, {"a": 1}, None, [[["x"] * 28] * 28]):
        answer = client.post("/predict", json={"model": "digits", "inputs": [tensors(value)]})
        assert answer.status_code == 422, value
        assert "inputs" in answer.json()["field"] or "input" in answer.json()["field"]


def test_content_types(client: httpx.Client) -> None:
    body = json.dumps({"model": "digits", "inputs": [tensors()]})
    for kind in ("application/json; charset=utf-8", "application/x-www-form-urlencoded", ""):
        sent = {"Content-Type": kind} if kind else {}
        assert client.post("/predict", content=body.encode(), headers=sent).is_success, kind
    answer = client.post("/predict", content=body, headers={"Content-Type": "application/pdf"})
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media")


def test_text_is_refused_by_a_classifier_of_pictures(client: httpx.Client) -> None:
    answer = client.post(
        "/predict?model=digits", content="hello", headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 422
    answer = client.post(
        "/predict?model=digits", content=b"\xff", headers={"Content-Type": "text/plain"}
    )
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b""),
        ("multipart/form-data; boundary=x", b"nothing"),
        ("multipart/form-data; boundary=x", b"--x\r\n\r\n\r\n--x--"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Type: image/png\r\n\r\nabc\r\n--x--"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="file"'),
        ("multipart/form-data; boundary=x", b"--x" + b"\r\n--x" * 5000 + b"--"),
    ],
)
def test_broken_forms(client: httpx.Client, content_type: str, body: bytes) -> None:
    answer = client.post(
        "/predict?model=digits", content=body, headers={"Content-Type": content_type}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request"), answer.text


def test_forms_without_files_and_with_other_files(client: httpx.Client) -> None:
    empty = client.post("/predict", files={"model": (None, b"digits")})
    assert (empty.status_code, empty.json()["field"]) == (422, "file")
    other = client.post("/predict", files={"picture": ("a.png", png())})
    assert (other.status_code, other.json()["field"]) == (422, "picture")
    none = client.post("/predict", files={"file": ("a.png", b"")}, data={"model": "digits"})
    assert none.status_code == 422


def test_too_many_query_fields(client: httpx.Client) -> None:
    answer = client.post("/predict?" + "&".join(f"a{n}=1" for n in range(100)), content=b"{}")
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")


def test_a_full_queue_is_429_with_retry_after(server: RunningServer, client: httpx.Client) -> None:
    row = json.dumps({"model": "hang", "inputs": [{"tensors": {"x": [1.0, 2.0]}}]}).encode()
    metrics = server.app.runtime.handlers.metrics.model("hang", "1")
    before = metrics.requests.get("cancelled", 0)
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=200.0) as waiting:
        head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(row)
        waiting.sendall(head + row)
        wait_until(lambda: metrics.queue_depth == 1)
        two_rows = {"tensors": {"x": [[1.0, 2.0], [1.0, 2.0]]}}
        answer = client.post("/predict", json={"model": "hang", "inputs": [two_rows]})
    assert (answer.status_code, answer.json()["code"]) == (429, "queue_full"), answer.text
    assert int(answer.headers["retry-after"]) >= 1
    # The client that went away is noticed while it waits, and counted.
    wait_until(lambda: metrics.requests.get("cancelled", 0) > before)


@pytest.mark.parametrize("how", ["header", "body", "query"])
def test_a_deadline_is_504(client: httpx.Client, how: str) -> None:
    body: dict[str, object] = {"model": "slow", "inputs": [{"tensors": {"x": [0.0] * 600}}]}
    headers = {"X-Request-Timeout": "0.001"} if how == "header" else {}
    if how == "body":
        body["timeout_s"] = 0.001
    query = "?timeout_s=0.001" if how == "query" else ""
    answer = until_late(lambda: client.post(f"/predict{query}", json=body, headers=headers))
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded"), answer.text


def test_a_wrong_deadline_is_refused(client: httpx.Client) -> None:
    answer = client.post("/predict", json={"inputs": []}, headers={"X-Request-Timeout": "soon"})
    assert (answer.status_code, answer.json()["field"]) == (422, "X-Request-Timeout")


def test_large_json_is_parsed_off_the_loop_and_answers_the_same(client: httpx.Client) -> None:
    small = {"model": "digits", "inputs": [tensors()]}
    padded = json.dumps(small) + " " * 20_000
    assert len(json.dumps(small)) < 16_384 < len(padded)
    first = client.post("/predict", json=small).json()["results"]
    assert client.post("/predict", content=padded).json()["results"] == first


def test_very_large_strings_come_back_short(client: httpx.Client) -> None:
    long = "x" * 500_000
    for body in (
        {"model": long, "inputs": [{"text": "a"}]},
        {"model": "digits", "version": long, "inputs": [{"text": "a"}]},
        {"model": "digits", "label": long, "inputs": [{"text": "a"}]},
        {"model": "digits", "inputs": [{long: 1}]},
        {"model": "digits", "inputs": [{"text": "a"}], long: 1},
        {"model": "digits", "inputs": [tensors({long: long})]},
        {"model": "digits", "inputs": [{"tensors": {long: [1]}}]},
        {"model": "digits", "inputs": [tensors()], "parameters": {long: long}},
        {"model": "digits", "inputs": [tensors()], "parameters": {"top_k": long}},
        {"model": "digits", "inputs": [tensors()], "id": long},
        {"model": "digits", "inputs": [tensors()], "timeout_s": long},
    ):
        answer = client.post("/predict", json=body)
        assert 400 <= answer.status_code < 500
        assert len(answer.content) < 5_000, answer.text[:300]
