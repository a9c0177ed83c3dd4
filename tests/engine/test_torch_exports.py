"""What torch's two exporters write for classifiers runs, agrees with torch, and may be batched."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest

import engine

torch = pytest.importorskip("torch", reason="torch is installed for training only")
pytest.importorskip("onnxscript", reason="torch exports through onnxscript")
nets = pytest.importorskip("tests.engine.torch_nets")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def export(net: object, x: object, exporter: str) -> bytes:
    """The net as an ONNX file, its batch size open."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters announce their own changes
        if exporter == "torchscript":
            axes = {"x": {0: "N"}, "y": {0: "N"}}
            names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes}
            torch.onnx.export(net, (x,), buffer, dynamo=False, opset_version=17, **names)
        else:
            shapes = ({0: torch.export.Dim("N")},)
            program = torch.onnx.export(
                net, (x,), input_names=["x"], output_names=["y"], dynamic_shapes=shapes, dynamo=True
            )
            program.save(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
@pytest.mark.parametrize("name", list(nets.NETS))
def test_exported_classifiers(name, exporter):
    torch.manual_seed(0)
    net = nets.NETS[name]()
    for module in net.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    net.eval()
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        expected = net(x).numpy()
    with engine.load(export(net, x[:2], exporter), device="reference") as model:
        (ours,) = model.run({"x": x.numpy()}).values()
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
        assert model.batch_reason is None
        assert model.batch == engine.BatchAxes(frozenset({"x"}), frozenset({model.outputs[0].name}))
        alone = [next(iter(model.run({"x": x[k : k + 1].numpy()}).values())) for k in range(3)]
        np.testing.assert_allclose(np.concatenate(alone), ours, rtol=1e-4, atol=1e-6)
