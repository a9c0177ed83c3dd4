"""Folders that are no encoder-decoder say so; what is not understood decodes without a cache."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, helper

import engine
from engine.cli import main
from engine.generation.seq2seq import LoadedSeq2Seq
from tests.engine.generation.networks import Oracle, unpack
from tests.engine.generation.test_graphs import check_rows, slots_of

ENCODER, DECODER, STEP = (
    "encoder_model.onnx",
    "decoder_model.onnx",
    "decoder_with_past_model.onnx",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good folder, to be spoiled: of one decoder layer."""
    return unpack("mbart", tmp_path / "net")


def load(folder: Path, **options: object) -> LoadedSeq2Seq:
    return engine.load_seq2seq(folder, device="reference", **options)  # type: ignore[arg-type]


def changed(path: Path, change: Callable[[ModelProto], None]) -> None:
    proto = onnx.load(path)
    change(proto)
    path.write_bytes(proto.SerializeToString())


def rename(old: str, new: str) -> Callable[[ModelProto], None]:
    """Return what renames inputs and outputs that begin with `old`."""

    def change(proto: ModelProto) -> None:
        graph = proto.graph
        names = {v.name for v in (*graph.input, *graph.output) if v.name.startswith(old)}
        for value in (*graph.input, *graph.output):
            if value.name in names:
                value.name = new + value.name.removeprefix(old)
        for node in graph.node:
            for side in (node.input, node.output):
                for i, name in enumerate(side):
                    if name in names:
                        side[i] = new + name.removeprefix(old)

    return change


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ((ENCODER, DECODER, STEP), r"holds no \.onnx file; expected encoder_model\.onnx with"),
        ((DECODER, STEP), r"holds \['encoder_model\.onnx'\]; expected"),
        ((DECODER,), r"holds \['decoder_with_past_model\.onnx', 'encoder_model\.onnx'\]"),
        ((ENCODER,), "expected encoder_model.onnx with"),
    ],
)
def test_missing_files(folder: Path, gone: tuple[str, ...], says: str) -> None:
    for name in gone:
        (folder / name).unlink()
    with pytest.raises(engine.InvalidModel, match=says):
        load(folder)


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(engine.InvalidModel, match="'nothing' is no folder"):
        load(tmp_path / "nothing")


@pytest.mark.parametrize("name", [ENCODER, DECODER, STEP])
def test_damaged_files(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    with pytest.raises(engine.InvalidModel):
        load(folder)


def test_decoders_of_different_networks(folder: Path, tmp_path: Path) -> None:
    other = unpack("marian", tmp_path / "other")
    shutil.copy(other / STEP, folder / STEP)
    with pytest.raises(engine.InvalidModel, match=r"do not fit together: 'cross\.1\.key' is None"):
        load(folder)


def test_an_encoder_of_another_width(folder: Path) -> None:
    def narrow(proto: ModelProto) -> None:
        last = proto.graph.output[0].name
        rename(last, "wide")(proto)
        proto.graph.node.append(
            helper.make_node("Concat", [*["wide"] * 2], [last], axis=2, name="twice")
        )
        del proto.graph.output[:]
        proto.graph.output.append(helper.make_tensor_value_info(last, 1, None))

    changed(folder / ENCODER, narrow)
    with pytest.raises(engine.InvalidModel, match="states of width 32, the other takes 16"):
        load(folder)


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        (ENCODER, "input_ids", "pixels", "encoder_model.onnx: an encoder has 'input_ids'"),
        (DECODER, "logits", "scores", "decoder_model.onnx: a decoder has 'logits'"),
        (DECODER, "encoder_attention_mask", "m", r"decoder_model.onnx: unknown inputs \['m'\]"),
        (DECODER, "input_ids", "words", "decoder_model.onnx: a decoder has 'input_ids'"),
    ],
)
def test_foreign_names(folder: Path, name: str, old: str, new: str, says: str) -> None:
    (folder / STEP).unlink()
    changed(folder / name, rename(old, new))
    with pytest.raises(engine.InvalidModel, match=says):
        load(folder)


def relu_of_keys(proto: ModelProto) -> None:
    """Let attention read something else than its cache."""
    first = next(v.name for v in proto.graph.output if "decoder.key" in v.name)
    for node in proto.graph.node:
        for i, name in enumerate(node.input):
            if name == first and node.op_type != "Shape":
                node.input[i] = "abs"
    place = next(i for i, n in enumerate(proto.graph.node) if first in n.output)
    proto.graph.node.insert(place + 1, helper.make_node("Abs", [first], ["abs"]))


def half_scores(proto: ModelProto) -> None:
    """Bend scores before a softmax: no scale and bias any more."""
    softmax = next(n for n in proto.graph.node if n.op_type == "Softmax")
    place = list(proto.graph.node).index(softmax)
    proto.graph.node.insert(place, helper.make_node("Tanh", [softmax.input[0]], ["bent"]))
    proto.graph.node[place + 1].input[0] = "bent"


def twice_the_mask(proto: ModelProto) -> None:
    """Add something to the scores over the source that is no mask of its tokens."""
    graph = proto.graph
    softmax = [n for n in graph.node if n.op_type == "Softmax"][1]
    place = list(graph.node).index(softmax)
    added = [
        helper.make_node("Cast", ["encoder_attention_mask"], ["numbers"], to=1),
        helper.make_node("CumSum", ["numbers", "one"], ["slope"]),
        helper.make_node("Unsqueeze", ["slope", "middle"], ["wide"]),
        helper.make_node("Add", [softmax.input[0], "wide"], ["sloped"]),
    ]
    graph.initializer.append(helper.make_tensor("one", 7, [], [1]))
    graph.initializer.append(helper.make_tensor("middle", 7, [2], [1, 2]))
    softmax.input[0] = "sloped"
    for node in reversed(added):
        graph.node.insert(place, node)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (rename("past_key_values", "cache"), "a decoder with past takes"),
        (rename("present", "next"), "does not give back"),
        (relu_of_keys, "'past_key_values.0.decoder.key' is read by 0 attentions"),
        (half_scores, "not scaled by a number"),
        (twice_the_mask, "something else than a mask"),
    ],
)
def test_what_is_not_recognised_decodes_without_a_cache(
    folder: Path, change: Callable[[ModelProto], None], says: str
) -> None:
    changed(folder / STEP, change)
    loaded = load(folder)
    assert not loaded.cached
    assert says in loaded.notes[0] and STEP in loaded.notes[0]
    check_rows(slots_of(loaded), Oracle(folder))


def test_external_data_stays_in_the_folder(tmp_path: Path) -> None:
    folder = unpack("marian_int8", tmp_path / "net")

    def outside(proto: ModelProto) -> None:
        for tensor in proto.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == "location":
                    entry.value = "../model.onnx_data"

    shutil.move(folder / "model.onnx_data", tmp_path / "model.onnx_data")
    for name in (ENCODER, DECODER, STEP):
        proto = onnx.load(folder / name, load_external_data=False)
        outside(proto)
        (folder / name).write_bytes(proto.SerializeToString())
    with pytest.raises(engine.InvalidModel, match="must be a plain relative path"):
        load(folder)


def test_limits_hold(folder: Path) -> None:
    with pytest.raises(engine.ResourceLimit, match="nodes"):
        load(folder, limits=engine.Limits(nodes=20))
    with pytest.raises(ValueError, match="precision 'half'"):
        load(folder, precision="half")


def test_inspect_says_what_was_recognised(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(folder), "--native"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "step: all nodes are native" in text and "cached: yes" in text
    assert "longest source: 24, longest target: 24" in text
    (folder / STEP).unlink()
    assert main(["inspect", str(folder)]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "cached: no" in text and "no decoder with past" in text
    (folder / ENCODER).unlink()
    assert main(["inspect", str(folder)]) == 1
