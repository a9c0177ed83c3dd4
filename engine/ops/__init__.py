"""The operators: every fact about each in one block. Importing this package fills
`registry.REGISTRY`.

To add a family, write its file and name it here; nothing else needs to know.
"""

from engine.ops import (
    attention,
    casting,
    contrib,
    control,
    conv,
    conv_transpose,
    deform_conv,
    detection,
    elementwise,
    generating,
    geometry,
    image,
    indexing,
    joining,
    linalg,
    losses,
    normalization,
    optimizers,
    pooling,
    quantization,
    recurrent,
    reduction,
    scan,
    selecting,
    shape,
    signal,
    signal_windows,
    slicing,
    softmax,
)
from engine.ops.registry import REGISTRY, Operator, Registry

FAMILIES = (
    attention,
    casting,
    contrib,
    control,
    conv,
    conv_transpose,
    deform_conv,
    detection,
    elementwise,
    generating,
    geometry,
    image,
    indexing,
    joining,
    linalg,
    losses,
    normalization,
    optimizers,
    pooling,
    quantization,
    recurrent,
    reduction,
    scan,
    selecting,
    shape,
    signal,
    signal_windows,
    slicing,
    softmax,
)

__all__ = ["FAMILIES", "REGISTRY", "Operator", "Registry"]
