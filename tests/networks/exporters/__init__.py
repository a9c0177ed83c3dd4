"""Programs that make the networks: torch, transformers, scikit-learn and LightGBM, each small.

These modules need the extra `networks`; nothing that `make test` runs imports them.
"""

from tests.networks.exporters import classifiers, pictures

FAMILIES = (classifiers, pictures)
