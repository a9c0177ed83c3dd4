"""Model files that others made: outputs and classes agree with ONNX Runtime."""

from __future__ import annotations

import io
import json

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import engine

pytestmark = pytest.mark.data

# How far outputs may be from those on file, relative to their largest magnitude.
DEFAULT = 1e-5
ONE_STEP = 1 / 255  # of an 8-bit output, where ONNX Runtime fused what the file says apart

MODELS = {
    "autoencoder1d": DEFAULT,
    "dummy_transformer": DEFAULT,
    "gtcrn": DEFAULT,
    "hand_keypoint_cls": DEFAULT,
    "hand_point_lstm": DEFAULT,
    "micro_kws_fp32": DEFAULT,
    "micro_kws_qdq_dyn": ONE_STEP * 1.01,
    "micro_kws_qoperator": ONE_STEP * 1.01,
    "mnist_8": DEFAULT,
    "ort_lstm_bidir_cntk": DEFAULT,
    "ort_rnn_bidir_cntk": DEFAULT,
    "oww_melspectrogram": DEFAULT,
    "person_reid_0248": 5e-5,
    "person_reid_0288": 5e-5,
    "ppocr_cls": DEFAULT,
    "style_mosaic_nc8": 5e-5,
    "t5_random_decoder": DEFAULT,
    "tinyvit_demo": DEFAULT,
    "vnn_acasxu_3_9": DEFAULT,
    "vnn_cctsdb_yolo": DEFAULT,
    "vnn_cifar10_resnet_4b": DEFAULT,
    "vnn_convnet_avgpool": DEFAULT,
    "vnn_oval_cifar_wide": DEFAULT,
    "vnn_tinyyolo": DEFAULT,
    "vnn_vit_pgd": DEFAULT,
    "winml_iris_regression": DEFAULT,
    "xfeat_interp_bicubic": DEFAULT,
}

ENDS_IN_MAPS = "ankane_lightgbm"
PRETRAINED = ["mobilenet_v2_1.0_224_keras_ptq.qdq.onnx", "squeezenet_v1.1_fp16.onnx"]
PHOTOS = 6


@pytest.mark.parametrize(("name", "tolerance"), MODELS.items())
def test_outputs_on_file(data_folder, name, tolerance):
    folder = data_folder / "onnx-models" / name
    with np.load(folder / "case0.npz") as case:
        feeds = {str(n): case[f"in{i}"] for i, n in enumerate(case["in_names"])}
        expected = {str(n): case[f"out{i}"] for i, n in enumerate(case["out_names"])}
    with engine.load(folder / "model.onnx", device="reference") as model:
        results = model.run(feeds)
        kinds = {spec.name: spec for spec in model.outputs}
    for output, theirs in expected.items():
        ours = results[output]
        assert ours.dtype == theirs.dtype == np.dtype(kinds[output].dtype)
        assert ours.shape == theirs.shape
        largest = max(1e-6, float(np.abs(theirs.astype(np.float64)).max()))
        difference = np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max()
        assert difference <= tolerance * largest


def test_a_classifier_that_ends_in_maps(data_folder):
    folder = data_folder / "onnx-models" / ENDS_IN_MAPS
    with np.load(folder / "case0.npz") as case:
        feeds, labels, maps = {"input": case["in0"]}, case["out0"], json.loads(str(case["out1"]))
    with engine.load(folder / "model.onnx", device="reference") as model:
        results = model.run(feeds)
    assert results["label"].tolist() == labels.tolist()
    for ours, theirs in zip(results["probabilities"], maps, strict=True):
        assert ours == pytest.approx({int(k): v for k, v in theirs.items()}, rel=DEFAULT)


def test_every_model_is_listed(data_folder):
    present = {folder.name for folder in (data_folder / "onnx-models").iterdir()}
    assert present == {*MODELS, ENDS_IN_MAPS}


def photographs(data_folder, count: int) -> list[np.ndarray]:
    """The first photographs: short side 256, centre crop 224, RGB (H, W, 3) of uint8."""
    with np.load(data_folder / "images" / "photos60_jpg.npz") as data:
        jpg, offsets = data["jpg"], data["offsets"]
    result = []
    for i in range(count):
        picture = Image.open(io.BytesIO(jpg[offsets[i] : offsets[i + 1]].tobytes())).convert("RGB")
        scale = 256 / min(picture.size)
        picture = picture.resize([round(side * scale) for side in picture.size])
        left, top = ((side - 224) // 2 for side in picture.size)
        result.append(np.asarray(picture.crop((left, top, left + 224, top + 224))))
    return result


def prepared(name: str, pixels: np.ndarray) -> np.ndarray:
    """What each model wants to see."""
    if name.startswith("mobilenet"):
        return (pixels.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None]
    bgr = pixels[:, :, ::-1].astype(np.float32) - np.array([104, 117, 123], np.float32)
    return bgr.transpose(2, 0, 1)[None].astype(np.float16)


@pytest.mark.parametrize("name", PRETRAINED)
def test_photographs_are_classified_alike(data_folder, name):
    path = data_folder / "pretrained" / name
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    # What the file says, node by node: fusing quantized nodes moves values by whole steps.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options)
    with engine.load(path, device="reference") as model:
        (source,) = model.inputs
        for pixels in photographs(data_folder, PHOTOS):
            feeds = {source.name: prepared(name, pixels)}
            (theirs,) = session.run(None, feeds)
            (ours,) = model.run(feeds).values()
            assert ours.argmax() == theirs.argmax()
            np.testing.assert_allclose(ours, theirs, atol=0.05)
