"""Makes int8 twins with ONNX Runtime's static quantizer, in the form that most people use.

QDQ, signed weights with a scale per channel, unsigned activations with a scale per tensor, ranges
from random inputs like those that are measured.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from onnxruntime.quantization import (  # type: ignore[import-untyped]
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import (  # type: ignore[import-untyped]
    quant_pre_process,
)

from benchmarks.engine.networks.table import ALL, NETWORKS, Feeds, Network

SAMPLES = 6
BATCH = 2


class _Samples(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Feeds for the calibration, one after another."""

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._feeds: Iterator[Feeds] = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._feeds, None)


def quantize(network: Network, source: Path, target: Path) -> None:
    """Write the int8 twin of `source`.

    Raises:
        ValueError: The network has no such twin.
    """
    if not network.integers:
        raise ValueError(
            f"{network.title} has no int8 twin: its row of the table names no operators"
        )
    length = max(network.lengths)
    samples = _Samples(network.feeds(BATCH, length, 100 + n) for n in range(SAMPLES))
    part = target.with_suffix(".part")
    logging.getLogger().setLevel(logging.ERROR)  # the quantizer logs every range to the root
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(source, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            part,
            samples,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=None if network.integers == ALL else list(network.integers),
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    part.rename(target)


if __name__ == "__main__":
    _folder, *_names = sys.argv[1:]
    for _name in _names:
        _file = Path(_folder) / f"{_name}.onnx"
        quantize(NETWORKS[_name], _file, _file.with_name(f"{_name}_int8.onnx"))
