"""Which files a model consists of."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import engine


def outside(name: str, location: str) -> onnx.TensorProto:
    """A tensor whose elements lie in another file."""
    tensor = numpy_helper.from_array(np.zeros(4, np.float32), name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def model_of(
    nodes: list[onnx.NodeProto], *initializers: onnx.TensorProto, inside: int = 0
) -> onnx.ModelProto:
    """A model of nodes and initializers, with so many more floats inside of the file."""
    filler = numpy_helper.from_array(np.zeros(inside, np.float32), "filler")
    graph = helper.make_graph(nodes, "g", [], [], [*initializers, filler])
    return helper.make_model(graph)


def constant(name: str, location: str) -> onnx.NodeProto:
    """A node whose attribute lies in another file."""
    return helper.make_node("Constant", [], [name], value=outside(name, location))


def nested(depth: int, location: str) -> onnx.NodeProto:
    """An If in an If in an If, with a constant in the innermost branch."""
    node = constant("c", location)
    for _ in range(depth):
        branch = helper.make_graph([node], "branch", [], [])
        node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    return node


@pytest.mark.parametrize("inside", [0, 100_000], ids=["small", "large"])
def test_every_place_that_holds_tensors(tmp_path: Path, inside: int) -> None:
    listed = helper.make_node("Listed", [], ["l"], domain="d", tensors=[outside("t", "list.bin")])
    sparse = onnx.SparseTensorProto(values=outside("v", "v.bin"), indices=outside("i", "i.bin"))
    inner = helper.make_graph([constant("i", "inner.bin")], "inner", [], [])
    many = helper.make_node("Many", [], ["m"], domain="d", graphs=[inner])
    held = helper.make_node("Constant", [], ["s"], sparse_value=sparse)
    model = model_of(
        [constant("n", "./sub/node.bin"), nested(3, "deep.bin"), listed, many, held],
        outside("a", "a.bin"),
        outside("b", "a.bin"),
        inside=inside,
    )
    model.graph.sparse_initializer.append(sparse)
    body = [constant("f", "function.bin")]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("d", "F", [], ["f"], body, opsets))
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    wanted = (
        "a.bin",
        "deep.bin",
        "function.bin",
        "i.bin",
        "inner.bin",
        "list.bin",
        "sub/node.bin",
        "v.bin",
    )
    assert engine.external_data_files(path) == wanted


def test_a_model_of_one_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of([], inside=3).SerializeToString())
    assert engine.external_data_files(str(path)) == ()


@pytest.mark.parametrize("location", ["../w.bin", "/w.bin", "a/../../w", "", "a\\b"])
def test_locations_outside_of_the_folder(tmp_path: Path, location: str) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model_of([], outside("w", location)).SerializeToString())
    with pytest.raises(engine.InvalidModel, match="plain relative path"):
        engine.external_data_files(path)


def test_what_is_no_model(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    with pytest.raises(engine.InvalidModel, match="cannot open"):
        engine.external_data_files(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(engine.InvalidModel, match="not an ONNX"):
        engine.external_data_files(path)
    path.write_bytes(model_of([], inside=1000).SerializeToString())
    with pytest.raises(engine.ResourceLimit, match="model_bytes"):
        engine.external_data_files(path, engine.Limits(model_bytes=100))
    path.write_bytes(model_of([nested(4, "w.bin")]).SerializeToString())
    with pytest.raises(engine.InvalidModel, match="too deep"):
        engine.external_data_files(path, engine.Limits(nesting=3))
