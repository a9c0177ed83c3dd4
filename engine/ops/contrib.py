"""Operators of ONNX Runtime's own domain, com.microsoft: its optimizer and quantizer write them.

Imports the files that hold them, by theme; a new one is named here.
"""

from engine.ops import (
    contrib_activations,
    contrib_attention,
    contrib_bias,
    contrib_block_weights,
    contrib_bnb,
    contrib_conv,
    contrib_embedding,
    contrib_group_norm,
    contrib_group_query,
    contrib_integer_matmul,
    contrib_layouts,
    contrib_matmul,
    contrib_misc,
    contrib_multihead,
    contrib_normalization,
    contrib_quantized,
    contrib_quantized_layers,
    contrib_rotary,
)
from engine.ops.contrib_common import MICROSOFT

__all__ = [
    "MICROSOFT",
    "contrib_activations",
    "contrib_attention",
    "contrib_bias",
    "contrib_block_weights",
    "contrib_bnb",
    "contrib_conv",
    "contrib_embedding",
    "contrib_group_norm",
    "contrib_group_query",
    "contrib_integer_matmul",
    "contrib_layouts",
    "contrib_matmul",
    "contrib_misc",
    "contrib_multihead",
    "contrib_normalization",
    "contrib_quantized",
    "contrib_quantized_layers",
    "contrib_rotary",
]
