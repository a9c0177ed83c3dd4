"""Models that others made: answers are ONNX Runtime's, batched rows are equal to single ones."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import engine
from tests.engine.onnx_models import ort_run

pytestmark = pytest.mark.data
FOLDER = Path(os.environ.get("MILLRACE_TEST_DATA", "/nonexistent"))
MODELS = sorted(p.parent.name for p in FOLDER.glob("onnx-models/*/case0.npz"))
PRETRAINED = sorted(p.stem for p in FOLDER.glob("pretrained/*.onnx"))

# Its answers are a sequence of maps: test_third_party_models compares those.
ENDS_IN_MAPS = {"ankane_lightgbm"}
# A quantized net may round one value to the next step.
TOLERANCE = {"micro_kws_qdq_dyn": 4e-3, "micro_kws_qoperator": 4e-3, "style_mosaic_nc8": 2e-3}
# Rows that are proved independent, so that a service may batch them.
BATCHED = {
    "autoencoder1d",
    "hand_keypoint_cls",
    "hand_point_lstm",
    "micro_kws_fp32",
    "micro_kws_qdq_dyn",
    "micro_kws_qoperator",
    "mnist_8",
    "ppocr_cls",
    "tinyvit_demo",
    "vnn_acasxu_3_9",
    "vnn_cifar10_resnet_4b",
    "vnn_convnet_avgpool",
    "vnn_oval_cifar_wide",
    "vnn_tinyyolo",
    "vnn_vit_pgd",
    "winml_iris_regression",
    "xfeat_interp_bicubic",
}


def case(name: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return inputs and ONNX Runtime's outputs."""
    with np.load(FOLDER / "onnx-models" / name / "case0.npz") as file:
        inputs = {str(n): file[f"in{i}"] for i, n in enumerate(file["in_names"])}
        return inputs, {str(n): file[f"out{i}"] for i, n in enumerate(file["out_names"])}


def path(name: str) -> Path:
    return FOLDER / "onnx-models" / name / "model.onnx"


def assert_close(got: np.ndarray, want: np.ndarray, tolerance: float) -> None:
    assert got.shape == want.shape and got.dtype == want.dtype
    np.testing.assert_allclose(
        got.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("name", sorted(set(MODELS) - ENDS_IN_MAPS))
def test_answers_are_those_of_onnx_runtime(name: str) -> None:
    feeds, want = case(name)
    with engine.load(path(name), device="reference") as net:
        got = net.run(feeds)
    for key, value in want.items():
        assert_close(got[key], value, TOLERANCE.get(name, 2e-4))


@pytest.mark.parametrize("name", sorted(set(MODELS) - ENDS_IN_MAPS - {"style_mosaic_nc8"}))
def test_what_is_batched_gives_equal_rows(name: str) -> None:
    with engine.load(path(name)) as net:
        assert (net.batch is not None) == (name in BATCHED), net.batch_reason
        if net.batch is None:
            assert net.batch_reason
            return
        feeds, _ = case(name)
        rows = [{k: feeds[k][:1] * factor for k in net.batch.inputs} for factor in (1, 2, 0)]
        rows[1] = {
            k: np.full_like(v, np.nan) if v.dtype.kind == "f" else v for k, v in rows[1].items()
        }
        shared = {k: v for k, v in feeds.items() if k not in net.batch.inputs}
        joined = {k: np.concatenate([row[k] for row in rows]) for k in net.batch.inputs}
        whole = net.run({**joined, **shared})
        for i in (0, 2):
            for key, value in net.run({**rows[i], **shared}).items():
                assert_close(whole[key][i : i + 1], value, TOLERANCE.get(name, 1e-4))


@pytest.mark.parametrize("name", PRETRAINED)
def test_pretrained_classifiers_agree_with_onnx_runtime(name: str) -> None:
    source = FOLDER / "pretrained" / f"{name}.onnx"
    with engine.load(source, device="reference") as net:
        assert net.batch is not None
        (spec,) = net.inputs
        assert spec.shape is not None and spec.shape[1:] == (3, 224, 224)
        random = np.random.default_rng(0).standard_normal((2, 3, 224, 224))
        x = (random * (50 if "squeezenet" in name else 0.5)).astype(spec.dtype)
        (got,) = net.run({spec.name: x}).values()
    want = [
        next(iter(ort_run(source.read_bytes(), {spec.name: x[i : i + 1]}).values())) for i in (0, 1)
    ]
    expected = np.concatenate(want)
    # 8 bits: a value on the border of two steps may fall to either side, and move what follows.
    assert np.abs(got.astype(np.float64) - expected).max() <= 0.15 * np.abs(expected).max()
    top = [set(np.argsort(v.reshape(2, -1), axis=1)[0, -5:]) for v in (got, expected)]
    assert len(top[0] & top[1]) >= 4
