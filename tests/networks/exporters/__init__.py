"""Programs that make the networks: torch, transformers, scikit-learn and LightGBM, each small.

These modules need the extra `networks`; nothing that `make test` runs imports them.
"""

from tests.networks.exporters import (
    classic,
    classifiers,
    detectors,
    encoder_decoder,
    generative,
    language,
    optimized,
    pictures,
    quantized,
    sequences,
    vision_language,
)

FAMILIES = (
    classic,
    classifiers,
    detectors,
    encoder_decoder,
    generative,
    language,
    optimized,
    pictures,
    quantized,
    sequences,
    vision_language,
)
