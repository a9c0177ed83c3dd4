"""Models with inputs or outputs that are no tensors: sequences and maps, of classical models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import onnx
import pytest
from onnx import TensorProto, helper

from server.settings import Settings
from tests.server.running import running_server

MAPS = helper.make_sequence_type_proto(
    helper.make_map_type_proto(
        TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, [])
    )
)
LIST = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None)
ROWS = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
SAME = helper.make_tensor_value_info("same", TensorProto.FLOAT, ["N", 2])


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    given: onnx.ValueInfoProto,
    results: list[onnx.ValueInfoProto],
) -> None:
    graph = helper.make_graph(nodes, "net", [given], results)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=9), path)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    root = tmp_path_factory.mktemp("structures")
    nodes = [
        helper.make_node("ZipMap", ["x"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[3, 5]),
        helper.make_node("Identity", ["x"], ["same"]),
    ]
    maps = helper.make_value_info("maps", MAPS)
    save(root / "zip" / "1" / "model.onnx", nodes, ROWS, [maps, SAME])
    first = helper.make_node("SequenceLength", ["x"], ["length"])
    length = helper.make_tensor_value_info("length", TensorProto.INT64, [])
    save(root / "list" / "1" / "model.onnx", [first], LIST, [length])
    settings = Settings(repository=root, isolate=False, watch=False, settle_s=0.0)
    with (
        running_server(settings) as running,
        httpx.Client(base_url=running.url, timeout=200.0) as session,
    ):
        yield session


def test_maps_come_as_plain_json(client: httpx.Client) -> None:
    item = {"tensors": {"x": [[0.25, 0.75], [1.0, 0.0]]}}
    answer = client.post("/predict", json={"model": "zip", "inputs": [item]})
    assert answer.status_code == 200, answer.text
    [result] = answer.json()["results"]
    assert result["outputs"]["maps"] == {
        "dtype": "sequence",
        "data": [{"3": 0.25, "5": 0.75}, {"3": 1.0, "5": 0.0}],
    }
    assert result["outputs"]["same"]["data"] == [0.25, 0.75, 1.0, 0.0]


def test_the_tensor_protocol_gives_the_tensors(client: httpx.Client) -> None:
    outputs = client.get("/v2/models/zip").json()["outputs"]
    assert [each["name"] for each in outputs] == ["same"]
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
    answer = client.post("/v2/models/zip/infer", json={"inputs": [tensor]})
    assert [each["name"] for each in answer.json()["outputs"]] == ["same"], answer.text
    wanted = {"inputs": [tensor], "outputs": [{"name": "maps"}]}
    answer = client.post("/v2/models/zip/infer", json=wanted)
    assert (answer.status_code, answer.json()["expected"]) == (400, ["same"]), answer.text


def test_a_model_that_is_fed_a_sequence_says_why_it_is_not_served(client: httpx.Client) -> None:
    [version] = client.get("/models/list").json()["versions"]
    assert version["state"] == "FAILED"
    assert "input 'x' is a sequence(" in version["reason"]
