from __future__ import annotations

import json
import math
from typing import Any

import httpx
import numpy as np
import pytest

from server.handlers.infer import InferReply
from server.routes.tensorflow_v1 import encode_columns, feeds_of_rows, read_body
from server.tensors import TensorInfo


def predict(client: httpx.Client, model: str, body: Any) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.post(f"/v1/models/{model}:predict", content=content)


def test_rows_of_values(client: httpx.Client) -> None:
    answer = predict(client, "echo", {"instances": [[1, 2], [3, 4]]})
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"predictions": [[1.0, 2.0], [3.0, 4.0]]}


def test_rows_of_names(client: httpx.Client) -> None:
    rows = [{"a": [1, 2], "b": [5, 6]}, {"a": [3, 4], "b": [7, 8]}]
    answer = predict(client, "pair", {"instances": rows, "signature_name": "serving_default"})
    assert answer.json() == {
        "predictions": [
            {"doubled": [2.0, 4.0], "same": [5, 6]},
            {"doubled": [6.0, 8.0], "same": [7, 8]},
        ]
    }


def test_columns(client: httpx.Client) -> None:
    answer = predict(client, "pair", {"inputs": {"a": [[1, 2]], "b": [[5, 6]]}})
    assert answer.json() == {"outputs": {"doubled": [[2.0, 4.0]], "same": [[5, 6]]}}
    assert predict(client, "echo", {"inputs": [[1, 2]]}).json() == {"outputs": [[1.0, 2.0]]}


def test_nan_and_infinity_are_numbers_here(client: httpx.Client) -> None:
    answer = predict(client, "echo", b'{"instances": [[NaN, -Infinity]]}')
    assert answer.status_code == 200, answer.text
    [[first, second]] = json.loads(answer.text)["predictions"]
    assert math.isnan(first)
    assert second == -math.inf


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[NaN]",
        b'{"instances": NaN',
        {},
        {"instances": [[1, 2]], "inputs": [[1, 2]]},
        {"instances": [[1, 2]], "other": 1},
        {"instances": []},
        {"instances": 5},
        {"instances": [[1, 2]], "signature_name": "other"},
        {"instances": [{"x": [1, 2]}, {"y": [1, 2]}]},
        {"instances": [{"y": [1, 2]}]},
        {"instances": [[1, 2], [3]]},
        {"inputs": {"z": [[1, 2]]}},
        {"inputs": {}},
        {"inputs": "text"},
    ],
)
def test_bad_requests_are_400(client: httpx.Client, body: Any) -> None:
    answer = predict(client, "echo", body)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) >= {"error", "code"}


def test_inputs_must_be_named_when_there_are_several(client: httpx.Client) -> None:
    for body in ({"instances": [[1, 2]]}, {"inputs": [[1, 2]]}):
        answer = predict(client, "pair", body)
        assert answer.status_code == 400
        assert "a, b" in answer.json()["error"]


def test_versions_and_labels(client: httpx.Client) -> None:
    body = {"instances": [[[[0.0] * 28] * 28]]}
    assert predict(client, "digits/versions/2", body).status_code == 200
    for path in ("digits/versions/9", "digits/labels/nope", "nope", "..%2fetc", "a%00"):
        assert predict(client, path, body).status_code == 404, path


def test_status_and_metadata(client: httpx.Client) -> None:
    states = client.get("/v1/models/digits").json()["model_version_status"]
    assert {s["version"]: s["state"] for s in states} == {"1": "END", "2": "AVAILABLE"}
    [one] = client.get("/v1/models/digits/versions/2").json()["model_version_status"]
    assert one["status"] == {"error_code": "OK", "error_message": ""}
    [failed] = client.get("/v1/models/broken").json()["model_version_status"]
    assert failed["status"]["error_code"] == "UNKNOWN"
    assert failed["status"]["error_message"]
    for path in ("digits/versions/9", "digits/labels/none", "nope"):
        assert client.get(f"/v1/models/{path}").status_code == 404, path
    metadata = client.get("/v1/models/pair/metadata").json()
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["inputs"]["b"]["dtype"] == "DT_INT64"
    assert metadata["model_spec"]["name"] == "pair"


def test_text_travels_as_base64() -> None:
    body = read_body(b'{"instances": [{"b64": "aGk="}, "there"]}')
    specs = (TensorInfo("text", "object", ("N",)),)
    feeds = feeds_of_rows(body["instances"], specs)
    assert feeds["text"].tolist() == ["hi", "there"]
    outputs = {"raw_bytes": np.array(["hi"], object), "text": np.array(["hi"], object)}
    answer = encode_columns(InferReply("m", "1", outputs))
    assert json.loads(answer.body) == {"outputs": {"raw_bytes": [{"b64": "aGk="}], "text": ["hi"]}}


def test_large_bodies_answer_the_same(client: httpx.Client) -> None:
    rows = np.arange(8000, dtype=np.float32).reshape(-1, 2).tolist()
    assert predict(client, "echo", {"instances": rows}).json() == {"predictions": rows}
