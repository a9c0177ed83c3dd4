"""Torch's two exporters, and weights that make a net's answers depend on all of it."""

from __future__ import annotations

import inspect
import io
import warnings
from collections.abc import Sequence

import onnx
import torch
from torch import nn

from tests.networks.exporters.common import Axes, Feeds, clean, loaded


def settled(net: nn.Module, seed: int = 0) -> nn.Module:
    """Return the net for inference, with statistics and biases that are not what they start as."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
        for parameter in net.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return net.eval()


def script(
    net: nn.Module,
    feeds: Feeds,
    axes: Axes,
    outputs: Sequence[str],
    *,
    opset: int,
    output_axes: Axes | None = None,
    **options: object,
) -> onnx.ModelProto:
    """Export with the older exporter, which traces TorchScript."""
    buffer = io.BytesIO()
    dynamic = {name: dict(named) for name, named in axes.items()}
    first = next(iter(dynamic.values()), {})
    defaults = {name: {0: first[0]} for name in outputs if 0 in first}
    dynamic |= {n: dict(a) for n, a in (defaults if output_axes is None else output_axes).items()}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            tuple(torch.from_numpy(array) for array in feeds.values()),
            buffer,
            input_names=list(feeds),
            output_names=list(outputs),
            dynamic_axes=dynamic,
            opset_version=opset,
            dynamo=False,
            **options,  # type: ignore[arg-type]
        )
    return _sums_named(loaded(buffer))


def _sums_named(model: onnx.ModelProto) -> onnx.ModelProto:
    """Give dims that are sums their text back, as Optimum does: torch makes names of it."""
    for value in (*model.graph.input, *model.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if "___" in dim.dim_param:
                dim.dim_param = dim.dim_param.replace("___", " + ")
    return model


def dynamo(
    net: nn.Module,
    feeds: Feeds,
    axes: Axes,
    outputs: Sequence[str],
    *,
    opset: int | None = None,
) -> onnx.ModelProto:
    """Export with the newer exporter, which traces with torch.export."""
    dims = {name: torch.export.Dim(name) for named in axes.values() for name in named.values()}
    shapes: list[object] = [
        {axis: dims[symbol] for axis, symbol in axes.get(name, {}).items()} for name in feeds
    ]
    kinds = [p.kind for p in inspect.signature(net.forward).parameters.values()]
    if inspect.Parameter.VAR_POSITIONAL in kinds:  # the rest is one argument, a tuple
        named = len(kinds) - 1
        shapes = [*shapes[:named], tuple(shapes[named:])]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            net,
            tuple(torch.from_numpy(array) for array in feeds.values()),
            input_names=list(feeds),
            output_names=list(outputs),
            dynamic_shapes=tuple(shapes),
            opset_version=opset,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return clean(program.model_proto)
