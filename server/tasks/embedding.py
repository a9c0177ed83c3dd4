"""Embedding: one value of the graph as a vector, scaled to length 1 when asked."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from server.errors import InvalidInput
from server.model_config import EmbeddingConfig

from .base import Array, Arrays, Parameters, Prepared
from .items import ItemReader, ItemTask
from .parameters import ParameterTable, boolean, one_of
from .vectors import as_vectors


class EmbeddingTask(ItemTask):
    """Pictures or tensors in, one vector each out."""

    name = "embedding"

    def __init__(self, items: ItemReader, output: str, config: EmbeddingConfig) -> None:
        """Take the reader of items and the value that is the embedding."""
        table = ParameterTable(
            self.name,
            {"normalize": boolean, "encoding": one_of("float", "base64")},
            {"normalize": config.normalize, "encoding": "float"},
        )
        super().__init__(items, table)
        self.output = output
        self.normalizes = config.normalize  # unless a request says otherwise
        self.fetches: tuple[str, ...] | None = (output,)

    def vectors(self, outputs: Arrays, *, normalized: bool) -> tuple[Array, bool]:
        """Return the rows' vectors (rows, size), and whether all of them have length 1 now."""
        vectors = as_vectors(outputs[self.output], self.output)
        return normalize(vectors) if normalized else (vectors, False)

    def finish(self, outputs: Arrays, prepared: Prepared, parameters: Parameters) -> dict[str, Any]:
        """Return `{"embedding", "dim", "normalized"}`; of several rows, a list of embeddings.

        `encoding: base64` gives the bytes of little-endian float32 in place of a list.
        """
        options = self._table.check(parameters)
        vectors, normalized = self.vectors(outputs, normalized=options["normalize"])
        result: dict[str, Any] = {"dim": vectors.shape[1], "normalized": normalized}
        if options["encoding"] == "base64":
            result |= {"encoding": "base64", "dtype": "float32"}
            encoded = [base64.b64encode(row).decode() for row in vectors.astype("<f4")]
        else:
            encoded = vectors.astype(np.float32, copy=False).tolist()
        return {"embedding": encoded[0] if prepared.single else encoded, **result}


def normalize(vectors: Array) -> tuple[Array, bool]:
    """Scale each row to length 1; a row of zeros has no direction and stays as it is.

    Returns the rows, and whether all of them have length 1 now.
    """
    # In float64: the squares of large float32 numbers overflow, those of small ones vanish.
    exact = vectors.astype(np.float64)
    if not np.isfinite(exact).all():
        raise InvalidInput(
            "the model's embedding of this item is not finite and has no direction; "
            "check its values, or send normalize: false",
            expected="finite values",
            got="NaN or infinity",
        )
    lengths = np.sqrt(np.einsum("ij,ij->i", exact, exact))  # (rows,)
    zero = lengths == 0.0
    lengths[zero] = 1.0
    return (exact / lengths[:, None]).astype(np.float32), not zero.any()
