"""What needs torch: the crops, the net, its int8 weights and the steps of the recipe `objects`."""

import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
torch = pytest.importorskip(
    "torch", reason="recipes need torch: python -m pip install -r recipes/requirements.txt"
)

from PIL import Image  # noqa: E402  # only where torch is

from recipes.common.data import Dataset, Split  # noqa: E402
from recipes.objects import quantize  # noqa: E402
from recipes.objects.crops import cut, random_crops  # noqa: E402
from recipes.objects.model import ObjectNet  # noqa: E402
from recipes.objects.train import Settings, Training, normalized, pixels  # noqa: E402


def generator() -> "torch.Generator":
    return torch.Generator().manual_seed(1)


def tiny_data() -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)
    labels = np.arange(40) % 4
    train, test = Split(images, labels, "train"), Split(images[:20], labels[:20], "test")
    return Dataset(train, test, ("a", "b", "c", "d"))


def test_the_whole_picture_is_cut_unchanged_or_mirrored() -> None:
    images = torch.rand(2, 3, 64, 64)
    whole = torch.tensor([[1.0, 1, 0, 0], [-1.0, 1, 0, 0]])
    found = cut(images, whole, 64)
    assert torch.allclose(found[0], images[0], atol=1e-5)
    assert torch.allclose(found[1], images[1].flip(-1), atol=1e-5)


def test_a_quarter_is_cut_where_the_crop_says() -> None:
    images = torch.rand(1, 3, 64, 64)
    found = cut(images, torch.tensor([[0.5, 0.5, 0.5, 0.25]]), 32)
    assert torch.allclose(found[0], images[0, :, 16:48, 32:], atol=1e-5)


def test_crops_lie_inside_and_cover_the_area_asked_for() -> None:
    width, height, left, top = random_crops(2000, (0.35, 1.0), generator()).unbind(1)
    assert 0.4 < (width < 0).float().mean() < 0.6
    width = width.abs()
    assert float((left + width).max()) <= 1 + 1e-6 and float((top + height).max()) <= 1 + 1e-6
    assert float(left.min()) >= 0 and float(top.min()) >= 0
    share = width * height
    assert float(share.min()) > 0.3 and 0.6 < float(share.mean()) < 0.7


@pytest.mark.parametrize("factor", [1e-20, 1.0, 1e10])
def test_rounded_weights_are_found_again_in_their_product(factor: float) -> None:
    weight = np.random.default_rng(0).normal(size=(300, 5, 3)).astype(np.float32)
    weight *= np.float32(factor)
    weight[3] = 0
    values, scales = quantize.rounded(weight)
    product = quantize.product(values, scales)
    steps = np.abs(weight).max((1, 2))[:, None, None] / 127
    assert (np.abs(product - weight) <= 0.51 * steps).all()
    again = quantize.product(*quantize.rounded(product))
    assert np.array_equal(again, product)


def test_folding_normalizations_changes_no_output() -> None:
    torch.manual_seed(0)
    net = ObjectNet(5)
    net.whiten(torch.randn(20, 3, 64, 64))
    for _ in range(2):
        net(torch.randn(8, 3, 64, 64))
    images = torch.randn(3, 3, 64, 64)
    for expected, found in zip(net.eval()(images), net.deployed()(images), strict=True):
        assert torch.allclose(expected, found, rtol=1e-3, atol=1e-3)


def test_normalizing_follows_the_settings_of_the_server() -> None:
    bytes_ = np.random.default_rng(1).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    mean, std = np.array((0.485, 0.456, 0.406)), np.array((0.229, 0.224, 0.225))
    expected = ((bytes_ / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert np.allclose(normalized(pixels(bytes_)).numpy(), expected, atol=1e-5)


def test_epochs_see_the_sizes_of_the_settings() -> None:
    settings = Settings(epochs=6, sizes=((2, 40), (3, 48)))
    assert [settings.size(epoch) for epoch in range(6)] == [40, 40, 48, 48, 48, 64]


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_a_short_training_resumes_and_leaves_a_complete_version(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="exports")
    from recipes.objects.__main__ import finish

    for k in range(16):
        Image.new("RGB", (32, 32), (9 * k, 20, 30)).save(tmp_path / f"{k:02}.png")
    settings = Settings(
        epochs=2, sizes=((1, 32),), batch_size=20, micro_batch=10, calibration_rows=20
    )
    Training(tiny_data(), settings, tmp_path).run()
    resumed = Training(tiny_data(), settings, tmp_path)
    assert resumed.progress.epoch == 2 and len(resumed.progress.curve) == 2
    resumed.run()
    finish(resumed, tiny_data(), tmp_path, tmp_path / "out", tmp_path / "results")
    version = tmp_path / "out" / "objects" / "1"
    manifest = json.loads((version / "manifest.json").read_text())
    assert {"model.onnx", "labels.txt", "CARD.md", "LICENSE", "samples/2.npz"} <= set(
        manifest["files"]
    )
    assert manifest["files"]["model.onnx"]["bytes"] < 4_600_000  # int8, not float32
    result = json.loads((tmp_path / "results" / "objects-1.json").read_text())
    assert 0 <= result["test_accuracy"] <= result["test_accuracy_top5"] <= 1
