"""What needs torch: augmentation, checkpoints and the exported graph of the recipes."""

import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
torch = pytest.importorskip(
    "torch", reason="recipes need torch: python -m pip install -r recipes/requirements.txt"
)

from recipes.common import augment, checkpoint  # noqa: E402  # only where torch is
from recipes.common.data import Dataset, Split  # noqa: E402
from recipes.common.muon import orthogonalized  # noqa: E402
from recipes.common.workers import Workers  # noqa: E402
from recipes.digits.models import Convolutional, FullyConnected  # noqa: E402
from recipes.photos.model import PhotoNet  # noqa: E402
from recipes.photos.train import Settings, Training  # noqa: E402


def generator() -> "torch.Generator":
    return torch.Generator().manual_seed(1)


def test_translation_cuts_the_window_that_the_shift_says() -> None:
    padded = torch.arange(2 * 1 * 6 * 6.0).view(2, 1, 6, 6)
    cut = augment.random_translate(padded, 4, generator(), shifts=torch.tensor([[0, 2], [1, 0]]))
    assert torch.equal(cut[0], padded[0, :, 0:4, 2:6])
    assert torch.equal(cut[1], padded[1, :, 1:5, 0:4])


def test_a_picture_is_mirrored_in_every_second_epoch() -> None:
    images, rows = torch.rand(3, 1, 2, 2), torch.tensor([4, 0, 2])
    side = torch.tensor([0, 0, 1, 0, 1])
    first = augment.alternating_flip(images, rows, 0, side)
    second = augment.alternating_flip(images, rows, 1, side)
    assert torch.equal(first, torch.stack([images[0].flip(-1), images[1], images[2].flip(-1)]))
    assert torch.equal(second, first.flip(-1))


def test_a_warp_of_nothing_changes_nothing() -> None:
    images = torch.rand(2, 1, 28, 28)
    assert torch.allclose(
        augment.random_warp(images, augment.Warp(), generator()), images, atol=1e-5
    )


def test_thickness_moves_ink_both_ways() -> None:
    images = torch.zeros(300, 1, 28, 28)
    images[:, :, 8:20, 12:15] = 1
    ink = augment.random_thickness(images, generator()).sum((1, 2, 3))
    assert ink.min() < images[0].sum() < ink.max()


def test_orthogonalized_evens_out_singular_values() -> None:
    values = torch.linalg.svdvals(orthogonalized(torch.randn(20, 50, generator=generator()), 5))
    assert values.min() > 0.5
    assert values.max() < 1.5


def test_a_resumed_training_has_the_same_state(tmp_path: Path) -> None:
    path, settings = tmp_path / "a.pt", {"seed": 1}
    net = torch.nn.Linear(2, 2)
    progress = checkpoint.Progress(epoch=3, train_s=1.5, curve=[{"epoch": 3.0}])
    checkpoint.save(path, settings, progress, net=net)
    other = torch.nn.Linear(2, 2)
    assert checkpoint.resume(path, settings, net=other) == progress
    assert torch.equal(net.weight, other.weight)
    with pytest.raises(checkpoint.CheckpointMismatch):
        checkpoint.resume(path, {"seed": 2}, net=other)


def test_workers_sum_to_the_gradient_of_one() -> None:
    net = torch.nn.Linear(3, 1)
    rows = torch.randn(8, 3, generator=generator())

    def compute(model: torch.nn.Module, part: tuple) -> tuple[float, int]:
        loss = model(part[0]).square().sum()
        loss.backward()
        return loss.item(), len(part[0])

    net(rows).square().sum().backward()
    expected = net.weight.grad.clone()
    _, seen = Workers(net, 2, compute).gradients([(part, part) for part in rows.split(2)])
    assert seen == 8
    assert torch.allclose(net.weight.grad, expected, atol=1e-5)


def test_folding_normalizations_changes_no_output() -> None:
    torch.manual_seed(0)
    net = PhotoNet()
    net.whiten(torch.randn(20, 3, 32, 32))
    for _ in range(3):
        net(torch.randn(16, 3, 32, 32))
    net.eval()
    images = torch.randn(4, 3, 32, 32)
    for expected, found in zip(net(images), net.deployed()(images), strict=True):
        assert torch.allclose(expected, found, rtol=1e-3, atol=1e-3)


@pytest.mark.filterwarnings("ignore")  # the exporter's own
@pytest.mark.parametrize(
    ("net", "shape", "outputs"),
    [
        (FullyConnected(), (1, 28, 28), ("logits",)),
        (Convolutional(), (1, 28, 28), ("logits", "embedding")),
        (PhotoNet(), (3, 32, 32), ("logits", "embedding")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_exported_file_computes_the_same_for_any_batch(
    tmp_path: Path, net: "torch.nn.Module", shape: tuple[int, ...], outputs: tuple[str, ...]
) -> None:
    export = pytest.importorskip("recipes.common.export", reason="needs onnxruntime, onnxscript")
    path = tmp_path / "model.onnx"
    export.export_onnx(net, torch.zeros(2, *shape), path, outputs)
    for rows in (1, 5):
        images = torch.randn(rows, *shape)
        with torch.no_grad():
            expected = dict(zip(outputs, net.eval()(images), strict=True))
        found = export.run_onnx(path, images.numpy())
        for name in outputs:
            assert np.allclose(found[name], expected[name].numpy(), rtol=1e-3, atol=1e-4)


def bright_and_dark(count: int) -> Split:
    """Two classes that nobody can mistake: pictures of low and of high values."""
    labels = np.arange(count) % 2
    noise = np.random.default_rng(0).integers(0, 100, (count, 32, 32, 3))
    return Split((noise + 150 * labels[:, None, None, None]).astype(np.uint8), labels, "made up")


@pytest.mark.filterwarnings("ignore")  # the exporter's own
def test_a_training_of_photos_learns_resumes_and_leaves_a_complete_version(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="exports")
    from recipes.photos.__main__ import finish

    data = Dataset(bright_and_dark(120), bright_and_dark(40), ("dark", "bright"))
    settings = Settings(
        epochs=4, small_epochs=2, batch_size=40, micro_batch=20, calibration_rows=80
    )
    Training(data, settings, tmp_path).run()
    resumed = Training(data, settings, tmp_path)
    assert resumed.progress.epoch == 4 and len(resumed.progress.curve) == 4
    resumed.run()
    finish(resumed, data, tmp_path / "out", tmp_path / "results", mirror=False)
    manifest = json.loads((tmp_path / "out" / "photos" / "1" / "manifest.json").read_text())
    assert {"model.onnx", "labels.txt", "CARD.md", "LICENSE", "samples/2.npz"} <= set(
        manifest["files"]
    )
    result = json.loads((tmp_path / "results" / "photos-1.json").read_text())
    assert result["test_accuracy"] > 0.9
    assert result["curve"][-1]["test_accuracy"] == result["test_accuracy"]
    assert result["mirrored"] is False
