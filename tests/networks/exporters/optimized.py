"""Files that ONNX Runtime optimized: fused operators of its own domain in place of ONNX's."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import helper
from onnxruntime.quantization import quantize_dynamic
from onnxruntime.transformers import optimizer

from tests.networks.exporters.common import Export, clean, network
from tests.networks.exporters.generative import mixer
from tests.networks.exporters.language import HEADS, WIDTH, gpt2, llama
from tests.networks.exporters.quantized import bert_export, resnet_export, through_files

MICROSOFT = "com.microsoft"


def extended(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return what ONNX Runtime writes out after its extended optimizations."""

    def convert(before: Path, after: Path) -> None:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(after)
        options.log_severity_level = 4
        ort.InferenceSession(before, options, providers=["CPUExecutionProvider"])

    return through_files(model, convert)


def transformer(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """Return what ONNX Runtime's optimizer of transformers makes of a model."""
    found = optimizer.optimize_model(
        model, model_type=kind, num_heads=HEADS, hidden_size=WIDTH, opt_level=0
    )
    model = clean(found.model)
    if MICROSOFT not in {opset.domain for opset in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(MICROSOFT, 1))  # as when it saves a file
    return model


@network
def resnet_optimized() -> Export:
    plain = resnet_export()
    return Export(extended(plain.model), plain.feeds)


@network
def mixer_optimized() -> Export:
    plain = mixer()
    return Export(extended(plain.model), plain.feeds)


@network
def bert_optimized() -> Export:
    plain = bert_export()
    return Export(extended(plain.model), plain.feeds)


@network
def bert_fused() -> Export:
    plain = bert_export()
    return Export(transformer(plain.model, "bert"), plain.feeds)


@network
def bert_fused_int8() -> Export:
    plain = bert_export()
    fused = transformer(plain.model, "bert")
    options = {"DefaultTensorType": onnx.TensorProto.FLOAT}  # of what fused operators give
    model = through_files(fused, lambda a, b: quantize_dynamic(a, b, extra_options=options))
    return Export(model, plain.feeds, plain=True)


@network
def gpt2_fused() -> Export:
    plain = gpt2()
    return Export(transformer(plain.model, "gpt2"), plain.feeds)


@network
def llama_optimized() -> Export:
    plain = llama()
    return Export(extended(plain.model), plain.feeds)
