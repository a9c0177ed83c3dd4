"""The same networks in fewer bits: quantized in each of ONNX Runtime's forms, and halved floats."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxconverter_common import float16
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from tests.networks.exporters.classifiers import AXES, ResNet, pictures
from tests.networks.exporters.common import Export, Feeds, clean, network
from tests.networks.exporters.from_torch import script, settled
from tests.networks.exporters.generative import ViT
from tests.networks.exporters.language import bert_net, cached, encoder, llama_net, texts
from tests.networks.exporters.sequences import lstm


class Reader(CalibrationDataReader):
    """Hands out feeds once."""

    def __init__(self, feeds: Sequence[Feeds]) -> None:
        self.waiting: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self.waiting, None)


def through_files(model: onnx.ModelProto, convert: Any) -> onnx.ModelProto:
    """Return what a converter from file to file makes of a model."""
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(model, before)
        convert(before, after)
        return clean(onnx.load(after))


def resnet_export(opset: int = 13) -> Export:
    """Return a convolutional net to be converted."""
    feeds = pictures((2, 32, 32), (3, 32, 32))
    net = settled(ResNet(bottleneck=False))
    return Export(script(net, feeds[0], AXES, ["y"], opset=opset), feeds)


def quantized_resnet(form: QuantFormat, weight: QuantType, per_channel: bool) -> Export:
    """Return a net quantized by what it was shown."""
    plain = resnet_export()

    def convert(before: Path, after: Path) -> None:
        quantize_static(
            before,
            after,
            Reader(plain.feeds),
            quant_format=form,
            per_channel=per_channel,
            weight_type=weight,
            activation_type=QuantType.QUInt8,
        )

    return Export(through_files(plain.model, convert), plain.feeds, plain=True)


def bert_export() -> Export:
    """Return a BERT to be converted."""
    return encoder(bert_net(), texts((2, 7), (3, 5), kinds=True), ["logits"], opset=14)


@network
def resnet_qdq() -> Export:
    return quantized_resnet(QuantFormat.QDQ, QuantType.QInt8, per_channel=True)


@network
def resnet_qoperator() -> Export:
    return quantized_resnet(QuantFormat.QOperator, QuantType.QUInt8, per_channel=False)


@network
def bert_dynamic_int8() -> Export:
    plain = bert_export()
    model = through_files(plain.model, lambda a, b: quantize_dynamic(a, b, per_channel=True))
    return Export(model, plain.feeds, plain=True)


@network
def lstm_dynamic_int8() -> Export:
    plain = lstm()
    return Export(through_files(plain.model, quantize_dynamic), plain.feeds, plain=True)


@network
def resnet_fp16() -> Export:
    plain = resnet_export()
    model = clean(float16.convert_float_to_float16(plain.model))
    feeds = [{name: array.astype(np.float16) for name, array in f.items()} for f in plain.feeds]
    return Export(model, feeds)


@network
def bert_fp16() -> Export:
    plain = bert_export()
    model = clean(float16.convert_float_to_float16(plain.model, keep_io_types=True))
    return Export(model, plain.feeds)


def four_bits(plain: Export, form: QuantFormat) -> Export:
    """Return a net whose products have weights of four bits in blocks of sixteen."""
    quantizer = MatMulNBitsQuantizer(
        plain.model, bits=4, block_size=16, is_symmetric=False, quant_format=form
    )
    quantizer.process()
    return Export(clean(quantizer.model.model), plain.feeds, plain=True)


@network
def llama_int4() -> Export:
    return four_bits(cached(llama_net(), 2, 8, opset=17), QuantFormat.QOperator)


@network
def vit_int4_blocks() -> Export:
    feeds = pictures((2, 32, 32), (3, 32, 32))
    model = script(settled(ViT()), feeds[0], AXES, ["y"], opset=17)
    return four_bits(Export(model, feeds), QuantFormat.QDQ)


@network
def external_weights() -> Export:
    plain = resnet_export(opset=17)
    return Export(plain.model, plain.feeds, external=True)
