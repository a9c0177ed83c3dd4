from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from server.errors import InvalidInput
from server.routes.v2_reply import classify, tensor_bytes
from server.routes.v2_request import WantedOutput
from tests.server.running import RunningServer, until_late

ROWS = np.random.default_rng(3).random((3, 1, 28, 28), np.float32)
PAIR = {
    "inputs": [
        {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]},
        {"name": "b", "shape": [1, 2], "datatype": "INT64", "data": [[3, 4]]},
    ]
}


@pytest.fixture
def stock(server: RunningServer) -> Iterator[triton.InferenceServerClient]:
    client = triton.InferenceServerClient(server.url.removeprefix("http://"))
    yield client
    client.close()


def picture_input(binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("input", list(ROWS.shape), "FP32")
    tensor.set_data_from_numpy(ROWS, binary_data=binary)
    return tensor


def expected(client: httpx.Client) -> np.ndarray[Any, Any]:
    answer = client.post("/v1/models/digits:predict", json={"instances": ROWS.tolist()})
    return np.array(answer.json()["predictions"], np.float32)


def test_stock_client_asks_about_the_server(stock: triton.InferenceServerClient) -> None:
    assert stock.is_server_live()
    assert stock.is_server_ready()
    assert stock.is_model_ready("digits")
    assert stock.is_model_ready("digits", "2")
    assert not stock.is_model_ready("digits", "9")
    assert not stock.is_model_ready("broken")
    assert "binary_tensor_data" in stock.get_server_metadata()["extensions"]
    metadata = stock.get_model_metadata("digits")
    assert metadata["platform"] == "onnx_onnxv1"
    assert metadata["versions"] == ["1", "2"]
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 28, 28]}]
    config = stock.get_model_config("digits", "2")
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [1, 28, 28]}]
    assert config["max_batch_size"] == 32
    assert stock.get_model_config("whole")["max_batch_size"] == 0
    index = {(e["name"], e["version"]): e["state"] for e in stock.get_model_repository_index()}
    assert index[("digits", "2")] == "READY"
    assert index[("broken", "1")] == "UNAVAILABLE"


def test_stock_client_infers(stock: triton.InferenceServerClient, client: httpx.Client) -> None:
    want = expected(client)
    for binary in (True, False):
        result = stock.infer("digits", [picture_input(binary)], request_id="r-1")
        np.testing.assert_allclose(result.as_numpy("logits"), want, rtol=1e-4)
        assert result.get_response()["id"] == "r-1"
        assert result.get_response()["model_version"] == "2"
    asked = [triton.InferRequestedOutput("logits", binary_data=False)]
    result = stock.infer("digits", [picture_input()], outputs=asked, model_version="2")
    assert "data" in result.get_output("logits")
    np.testing.assert_allclose(result.as_numpy("logits"), want, rtol=1e-4)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_stock_client_compresses(
    stock: triton.InferenceServerClient, client: httpx.Client, algorithm: str
) -> None:
    result = stock.infer(
        "digits",
        [picture_input()],
        request_compression_algorithm=algorithm,
        response_compression_algorithm=algorithm,
        priority=1,
        timeout=60_000_000,
    )
    np.testing.assert_allclose(result.as_numpy("logits"), expected(client), rtol=1e-4)


def test_large_answers_are_compressed_when_asked(client: httpx.Client) -> None:
    x = np.zeros((600, 2), np.float32)
    tensor = {"name": "x", "shape": [600, 2], "datatype": "FP32", "data": x.ravel().tolist()}
    for name in ("gzip", "deflate"):
        answer = client.post(
            "/v2/models/echo/infer",
            json={"inputs": [tensor]},
            headers={"Accept-Encoding": f"br;q=0.5, {name}"},
        )
        assert answer.headers["content-encoding"] == name
        assert answer.json()["outputs"][0]["shape"] == [600, 2]
    plain = client.post(
        "/v2/models/echo/infer",
        json={"inputs": [tensor]},
        headers={"Accept-Encoding": "gzip;q=0, identity"},
    )
    assert "content-encoding" not in plain.headers


def test_stock_client_loads_and_unloads(stock: triton.InferenceServerClient) -> None:
    stock.unload_model("echo")
    assert not stock.is_model_ready("echo")
    stock.load_model("echo")
    assert stock.is_model_ready("echo")
    with pytest.raises(InferenceServerException, match="no parameters"):
        stock.load_model("echo", config="{}")
    with pytest.raises(InferenceServerException, match="cannot be loaded"):
        stock.load_model("broken")
    with pytest.raises(InferenceServerException, match="there is no"):
        stock.load_model("http://evil/model")


def test_stock_client_reads_statistics(stock: triton.InferenceServerClient) -> None:
    def counted() -> int:
        [stats] = stock.get_inference_statistics("digits", "2")["model_stats"]
        return int(stats["inference_count"])

    before = counted()
    stock.infer("digits", [picture_input()])
    assert counted() == before + 3
    assert len(stock.get_inference_statistics()["model_stats"]) > 3
    with pytest.raises(InferenceServerException):
        stock.get_inference_statistics("digits", "77")


def test_classification_extension(
    stock: triton.InferenceServerClient, client: httpx.Client
) -> None:
    asked = [triton.InferRequestedOutput("logits", class_count=2)]
    texts = stock.infer("digits", [picture_input()], outputs=asked).as_numpy("logits")
    want = expected(client)
    assert texts.shape == (3, 2)
    for row, (best, _) in zip(want, texts, strict=True):
        value, index, label = best.decode().split(":")
        assert int(index) == row.argmax()
        assert float(value) == pytest.approx(row.max(), abs=1e-5)
        assert label == f"digit {index}"


def test_classification_in_json_without_labels(client: httpx.Client) -> None:
    a = {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 5]}
    b = {"name": "b", "shape": [2, 3], "datatype": "FP32", "data": [1, 0, 0, 0, 1, 0]}
    outputs = [{"name": "c", "parameters": {"classification": 2}}]
    body = {"inputs": [a, b], "outputs": outputs}
    [output] = client.post("/v2/models/whole/infer", json=body).json()["outputs"]
    assert output["data"] == ["5.000000:1", "1.000000:0"]
    assert (output["datatype"], output["shape"]) == ("BYTES", [1, 2])


def test_json_infer_with_named_outputs_in_their_order(client: httpx.Client) -> None:
    names = [{"name": "same"}, {"name": "doubled", "parameters": {"binary_data": True}}]
    answer = client.post("/v2/models/pair/infer", json=PAIR | {"outputs": names, "id": "x"})
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    head = json.loads(answer.content[:length])
    assert head["id"] == "x"
    assert [output["name"] for output in head["outputs"]] == ["same", "doubled"]
    assert head["outputs"][0]["data"] == [3, 4]
    assert head["outputs"][1]["parameters"] == {"binary_data_size": 8}
    assert np.frombuffer(answer.content[length:], "<f4").tolist() == [2.0, 4.0]


def test_raw_binary_request(client: httpx.Client) -> None:
    answer = client.post(
        "/v2/models/digits/infer",
        content=ROWS[0].tobytes(),
        headers={"Inference-Header-Content-Length": "0"},
    )
    assert answer.status_code == 200, answer.text
    length = int(answer.headers["inference-header-content-length"])
    got = np.frombuffer(answer.content[length:], "<f4")
    np.testing.assert_allclose(got, expected(client)[0], rtol=1e-4)
    for model, body in (("digits", b"abc"), ("digits", b""), ("pair", b"abcd")):
        wrong = client.post(
            f"/v2/models/{model}/infer",
            content=body,
            headers={"Inference-Header-Content-Length": "0"},
        )
        assert wrong.status_code == 400, (model, wrong.text)


def infer(client: httpx.Client, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.post("/v2/models/pair/infer", content=content, headers=named)


def changed(**of_a: Any) -> dict[str, Any]:
    a, b = PAIR["inputs"]
    return {"inputs": [{k: v for k, v in (a | of_a).items() if v is not ...}, b]}


BAD_REQUESTS: list[Any] = [
    b"",
    b"{",
    b"[]",
    {},
    {"inputs": {}},
    {"inputs": []},
    {"inputs": [1]},
    {"inputs": [PAIR["inputs"][0]]},
    {"inputs": PAIR["inputs"] + [PAIR["inputs"][0]]},
    {"inputs": [*PAIR["inputs"], {"name": "c", "shape": [0], "datatype": "FP32", "data": []}]},
    PAIR | {"id": 5},
    PAIR | {"parameters": []},
    PAIR | {"parameters": {"timeout": "soon"}},
    PAIR | {"parameters": {"timeout": -1}},
    PAIR | {"parameters": {"timeout": 10**400}},
    PAIR | {"outputs": {}},
    PAIR | {"outputs": [{"name": "nope"}]},
    PAIR | {"outputs": [{"name": "same"}, {"name": "same"}]},
    PAIR | {"outputs": [{}]},
    PAIR | {"outputs": [{"name": "same", "parameters": {"classification": -1}}]},
    PAIR | {"outputs": [{"name": "same", "parameters": {"classification": True}}]},
    changed(name=4),
    changed(datatype="FP31"),
    changed(datatype=["FP32"]),
    changed(datatype="INT64"),
    changed(datatype="BF16"),
    changed(datatype="BYTES"),
    changed(shape=[2]),
    changed(shape=[2, 1]),
    changed(shape=[1, -2]),
    changed(shape=[1, True]),
    changed(shape="2"),
    changed(shape=[2**63, 2**63]),  # a product that overflows 64 bits
    changed(shape=[2**32, 2**32]),
    changed(shape=[1] * 200),
    changed(data=...),
    changed(data=None),
    changed(data=[1.0]),
    changed(data=[[1.0], [2.0, 3.0]]),
    changed(data=["1.0", "2.0"]),
    changed(data={"0": 1}),
    changed(parameters={"binary_data_size": 8}),  # beyond the body
    changed(parameters={"binary_data_size": -8}),
    changed(parameters={"binary_data_size": 1.5}),
    changed(parameters={"binary_data_size": 2**70}),
]


@pytest.mark.parametrize("body", BAD_REQUESTS, ids=range(len(BAD_REQUESTS)))
def test_bad_requests_are_400(client: httpx.Client, body: Any) -> None:
    answer = infer(client, body)
    assert answer.status_code == 400, answer.text
    assert set(answer.json()) >= {"error", "code"}


def test_rows_must_agree(client: httpx.Client) -> None:
    b = {"name": "b", "shape": [2, 2], "datatype": "INT64", "data": [3, 4, 5, 6]}
    answer = infer(client, {"inputs": [PAIR["inputs"][0], b]})
    assert answer.status_code == 400, answer.text
    empty = [dict(tensor, shape=[0, 2], data=[]) for tensor in PAIR["inputs"]]
    assert infer(client, {"inputs": empty}).status_code == 400


@pytest.mark.parametrize("length", ["-1", "99999", "x", "", "1e3", "9" * 30, "0x10"])
def test_header_length_must_lie_in_the_body(client: httpx.Client, length: str) -> None:
    answer = infer(client, PAIR, Inference_Header_Content_Length=length)
    assert answer.status_code == 400, answer.text


def binary_body(sizes: list[int], tail: bytes) -> tuple[bytes, str]:
    head = json.dumps(
        {
            "inputs": [
                {
                    "name": name,
                    "shape": [1, 2],
                    "datatype": datatype,
                    "parameters": {"binary_data_size": size},
                }
                for name, datatype, size in zip("ab", ("FP32", "INT64"), sizes, strict=True)
            ]
        }
    ).encode()
    return head + tail, str(len(head))


def test_binary_sizes_must_match(client: httpx.Client) -> None:
    tail = np.array([1, 2], "<f4").tobytes() + np.array([3, 4], "<i8").tobytes()
    for sizes, sent, status in (
        ([8, 16], tail, 200),
        ([8, 16], tail + b"x", 400),
        ([8, 16], tail[:-1], 400),
        ([4, 16], tail, 400),
        ([16, 8], tail, 400),
    ):
        body, length = binary_body(sizes, sent)
        answer = infer(client, body, Inference_Header_Content_Length=length)
        assert answer.status_code == status, answer.text


def test_paths(client: httpx.Client) -> None:
    for path in (
        "/v2/models/nope/infer",
        "/v2/models/..%2F..%2Fetc/infer",
        "/v2/models/%2e%2e/infer",
        "/v2/models/a%00b/infer",
        "/v2/models/pair/versions/%2e%2e%2f/infer",
        "/v2/models/pair/versions/77/infer",
        "/v2/models/pair/versions//infer",
        "/v2/models//infer",
        "/v2/models/pair/infer/",
        "/v2/models/pair/generate",
        "/v2/models/%ff%fe/infer",
    ):
        answer = client.post(path, json=PAIR)
        assert answer.status_code == 404, path
        assert set(answer.json()) >= {"error", "code"}, path
    assert client.get("/v2/models/pair/infer").status_code == 405
    assert client.get("/v2/models/pair/infer").headers["allow"] == "POST"


def test_bombs_are_bounded(client: httpx.Client) -> None:
    bomb = b"\0" * (8 << 20)
    for name, packed in (("gzip", gzip.compress(bomb)), ("deflate", zlib.compress(bomb))):
        answer = infer(client, packed, Content_Encoding=name)
        assert (answer.status_code, answer.json()["code"]) == (413, "payload_too_large")
    answer = infer(client, b"not gzip", Content_Encoding="gzip")
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_request")
    answer = infer(client, gzip.compress(b"{}" * 999)[:20], Content_Encoding="gzip")
    assert answer.status_code == 400
    answer = infer(client, b"{}", Content_Encoding="br")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_media")
    answer = infer(client, json.dumps(PAIR).encode(), Content_Encoding="identity")
    assert answer.status_code == 200


def test_deadline_in_microseconds(client: httpx.Client) -> None:
    tensor = {"name": "x", "shape": [1, 600], "datatype": "FP32", "data": [0.0] * 600}
    body = {"inputs": [tensor], "parameters": {"timeout": 500}}
    answer = until_late(lambda: client.post("/v2/models/slow/infer", json=body))
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    body["parameters"] = {"timeout": 0}
    assert client.post("/v2/models/slow/infer", json=body).status_code == 200


def test_index_body(client: httpx.Client) -> None:
    everything = client.post("/v2/repository/index").json()
    ready = client.post("/v2/repository/index", json={"ready": True}).json()
    assert {e["state"] for e in ready} == {"READY"}
    assert len(ready) < len(everything)
    assert client.post("/v2/repository/index", content=b"[").status_code == 400


def test_large_tensors_in_json_are_handled_off_the_loop(client: httpx.Client) -> None:
    rows = np.arange(12_000, dtype=np.float32).reshape(-1, 2)
    tensor = {"name": "x", "shape": list(rows.shape), "datatype": "FP32", "data": rows.tolist()}
    answer = client.post("/v2/models/echo/infer", json={"inputs": [tensor]})
    assert answer.status_code == 200, answer.text
    assert np.array_equal(answer.json()["outputs"][0]["data"], rows.ravel())


def test_bytes_tensors_are_decoded_and_refused_by_name(client: httpx.Client) -> None:
    for data in (
        struct.pack("<I", 2) + b"ab" + struct.pack("<I", 0),
        struct.pack("<I", 200) + b"ab",
        b"\x01\x02",
        struct.pack("<I", 2) + b"ab",
    ):
        tensor = {"name": "x", "shape": [1, 2], "datatype": "BYTES"}
        tensor["parameters"] = {"binary_data_size": len(data)}
        head = json.dumps({"inputs": [tensor]}).encode()
        answer = client.post(
            "/v2/models/echo/infer",
            content=head + data,
            headers={"Inference-Header-Content-Length": str(len(head))},
        )
        assert answer.status_code == 400, data


def test_classification_needs_numbers() -> None:
    wanted = WantedOutput("y", binary=False, classes=2)
    with pytest.raises(InvalidInput, match="needs numbers"):
        classify(np.array(["a", "b"], object), wanted, None, batched=False)
    with pytest.raises(InvalidInput, match="needs numbers"):
        classify(np.array([True]), wanted, None, batched=False)
    texts = classify(np.array([[1, 3], [2, 0]], np.int64), wanted, ("no", "yes"), batched=True)
    assert texts.tolist() == [
        ["3.000000:1:yes", "1.000000:0:no"],
        ["2.000000:0:no", "0.000000:1:yes"],
    ]


def test_tensors_on_the_wire_are_little_endian() -> None:
    assert tensor_bytes(np.array([1], ">i4")) == b"\x01\0\0\0"
    assert tensor_bytes(np.array(["é", b"b"], object)) == b"\x02\0\0\0\xc3\xa9\x01\0\0\0b"


def test_very_large_names_come_back_short(client: httpx.Client) -> None:
    long = "x" * 200_000
    a, b = PAIR["inputs"]
    for body in (
        {"inputs": [a | {"name": long}, b]},
        {"inputs": [a | {"datatype": long}, b]},
        {"inputs": [a | {"data": [long]}, b]},
        {"inputs": [a | {"shape": [long]}, b]},
        {"inputs": [a, b, b | {"name": long}, b | {"name": long}]},
        PAIR | {"outputs": [{"name": long}]},
        PAIR | {"outputs": [{"name": long}, {"name": long}]},
        PAIR | {"parameters": {"timeout": long}},
    ):
        answer = infer(client, body)
        assert answer.status_code == 400
        assert len(answer.content) < 5_000, answer.text[:300]
